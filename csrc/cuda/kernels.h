// The table of the kernels of all rules.
#pragma once

#include "thread.h"

namespace lrcore::cuda {

/// The kernels of each rule, for Vec1 and for Vec4.
template <class Kernel>
struct Kernels {
  Kernel sweeps[rules::count][2];

  const Kernel& at(int rule, const Job& job) const { return sweeps[rule][job.width == Vec4::width]; }
};

/// Returns the table of the kernels that `Make<Chunk, Rule>::kernel()` returns.
template <class Kernel, template <class, class> class Make>
constexpr Kernels<Kernel> make_kernels() {
  return rules::with_all([]<class... Entry>(Entry...) -> Kernels<Kernel> {
    return {.sweeps = {{Make<Vec1, typename Entry::Rule>::kernel(), Make<Vec4, typename Entry::Rule>::kernel()}...}};
  });
}

}  // namespace lrcore::cuda
