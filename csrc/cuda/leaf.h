// The sum of a leaf on a GPU: a warp adds it, and each of its threads has one partial sum.
#pragma once

#include "../sums/tree.h"

namespace lrcore::cuda {

inline constexpr int warp_threads = sums::partial_sums;

/// Returns the sum of `sum` and the terms [begin, end) of a leaf that belong to partial sum `thread`. `term(i)` returns
/// term i.
template <class Term>
constexpr double partial_sum(double sum, Term term, int64_t begin, int64_t end, int thread) {
  const int64_t to_first = (thread - begin % warp_threads + warp_threads) % warp_threads;
  for (int64_t i = begin + to_first; i < end; i += warp_threads) sum = sum + term(i);
  return sum;
}

}  // namespace lrcore::cuda
