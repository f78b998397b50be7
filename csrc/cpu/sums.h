// Sums of products on the CPU.
#pragma once

#include <span>

#include "../plan.h"
#include "../sums/units.h"
#include "backends.h"

namespace lrcore::cpu {

/// Terms of a sum: the products x[i] y[i] of some elements. If there are `arrays`, x and y are their sum.
struct Terms {
  const float* x;
  const float* y;
  sums::Elements elements;
  std::span<const Stream> arrays = {};
};

/// Writes the sum of each leaf of the units, in one pass on the thread pool. The terms are in the order of their
/// elements; elements without a term count as zeros.
void sum_leaves(const SweepTable& table, const sums::Units& units, std::span<const Terms> terms, double* leaf_sums);

/// Adds the sums of the leaves, which it overwrites, and writes the sum of each unit. Uses the default floating-point
/// mode, as does `norm`.
void add_up(const sums::Units& units, double* leaf_sums, double* totals);

/// Returns the root of the sum of units' sums of squares, which it overwrites.
double norm(std::span<double> totals);

}  // namespace lrcore::cpu
