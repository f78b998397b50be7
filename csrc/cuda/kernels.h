// The table of the kernels of all rules.
#pragma once

#include "thread.h"

namespace lrcore::cuda {

/// The kernels of each rule in each form, for Vec1 and for Vec4.
template <class Kernel>
struct Kernels {
  Kernel sweeps[rules::count][3][2];

  const Kernel& at(int rule, const Job& job) const {
    const Form form = job.added != nullptr || job.step.has_extras() ? Form::full
                      : job.decision != nullptr                     ? Form::guarded
                                                                    : Form::plain;
    return sweeps[rule][static_cast<int>(form)][job.width == Vec4::width];
  }
};

/// Returns the table of the kernels that `Make<Chunk, Rule, form>::kernel()` returns.
template <class Kernel, template <class, class, Form> class Make>
constexpr Kernels<Kernel> make_kernels() {
  return rules::with_all([]<class... Entry>(Entry...) -> Kernels<Kernel> {
    return {.sweeps = {{{Make<Vec1, typename Entry::Rule, Form::plain>::kernel(),
                         Make<Vec4, typename Entry::Rule, Form::plain>::kernel()},
                        {Make<Vec1, typename Entry::Rule, Form::guarded>::kernel(),
                         Make<Vec4, typename Entry::Rule, Form::guarded>::kernel()},
                        {Make<Vec1, typename Entry::Rule, Form::full>::kernel(),
                         Make<Vec4, typename Entry::Rule, Form::full>::kernel()}}...}};
  });
}

}  // namespace lrcore::cuda
