// The sum of a leaf on a GPU: a warp adds it, and each of its threads has one partial sum.
#pragma once

#include "../sums/tree.h"

namespace lrcore::cuda {

inline constexpr int warp_threads = sums::partial_sums;

/// Returns partial sum `thread` of a leaf of n terms. `term(i)` returns term i.
template <class Term>
constexpr double partial_sum(Term term, int64_t n, int64_t leaf, int thread) {
  const int64_t first = leaf * sums::leaf_size;
  const int64_t end = first + sums::leaf_size < n ? first + sums::leaf_size : n;
  double sum = 0;
  for (int64_t i = first + thread; i < end; i += warp_threads) sum = sum + term(i);
  return sum;
}

}  // namespace lrcore::cuda
