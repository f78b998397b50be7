// The table of the kernels of all rules.
#pragma once

#include "thread.h"

namespace lrcore::cuda {

/// The kernels of each rule: without and with coupled decay, for Vec1 and for Vec4.
template <class Kernel>
struct Kernels {
  Kernel sweeps[rules::count][2][2];

  const Kernel& at(int rule, bool coupled, const Job& job) const {
    return sweeps[rule][coupled][job.width == Vec4::width];
  }
};

/// Returns the table of the kernels that `Make<Chunk, Rule, coupled>::kernel()` returns.
template <class Kernel, template <class, class, bool> class Make>
constexpr Kernels<Kernel> make_kernels() {
  return rules::with_all([]<class... Entry>(Entry...) -> Kernels<Kernel> {
    return {
        .sweeps = {
            {{Make<Vec1, typename Entry::Rule, false>::kernel(), Make<Vec4, typename Entry::Rule, false>::kernel()},
             {Make<Vec1, typename Entry::Rule, true>::kernel(), Make<Vec4, typename Entry::Rule, true>::kernel()}}...}};
  });
}

}  // namespace lrcore::cuda
