// Sums of products on the CPU.
#pragma once

#include <span>

#include "backends.h"

namespace lrcore::cpu {

/// A unit of a sum: the products x[i] y[i] of n elements.
struct Unit {
  const float* x;
  const float* y;
  int64_t n;
};

/// Writes the sum of each unit, as sums/tree.h defines it, in one pass on the thread pool.
void sum_units(LeafSums leaf_sums, std::span<const Unit> units, double* totals);

}  // namespace lrcore::cpu
