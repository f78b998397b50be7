// The kernels of all rules as a table.
#pragma once

#include "thread.h"

namespace lrcore::cuda {

/// A kernel for each rule, without and with coupled decay, by single elements and by quads.
template <class Kernel>
struct Kernels {
  Kernel sweeps[rules::count][2][2];

  const Kernel& at(int rule, bool coupled, const Job& job) const {
    return sweeps[rule][coupled][job.width == Quad::width];
  }
};

}  // namespace lrcore::cuda
