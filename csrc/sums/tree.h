// The sum of many numbers, defined so that its bits do not depend on how the work is divided.
//
// A unit of n terms is cut into leaves of 4,096 terms, counted from its begin. The terms of a leaf are added in float64
// to 32 partial sums in turn, which are then added in pairs. The leaves' sums are added in the same way, level by
// level, until one number is left. The terms are products of two float32 numbers, which float64 holds exactly.
#pragma once

#include <stdint.h>

#include <limits>

namespace lrcore::sums {

inline constexpr int64_t leaf_size = 4096;
inline constexpr int partial_sums = 32;

/// An addition of the numbers [from, from + count) in one array, at most a leaf of them, whose result is number `to`.
struct Addition {
  int64_t from, count, to;
};

/// Returns the number of leaves of `count` terms.
constexpr int64_t leaves_of(int64_t count) { return (count + leaf_size - 1) / leaf_size; }

/// Adds the partial sums of a leaf in pairs, and returns their sum.
template <int count = partial_sums>
constexpr double add_partials(double* s) {
  constexpr int half = count / 2;
  for (int j = 0; j < half; ++j) s[j] = s[j] + s[j + half];
  if constexpr (half > 1) return add_partials<half>(s);
  return s[0];
}

/// Adds the sums of the leaves of one unit, and returns its sum. Overwrites them. If there is a NaN among them, the sum
/// is one NaN, whatever its bits were.
constexpr double add_leaves(double* sums, int64_t count) {
  if (count == 0) return 0.0;
  while (count > 1) {
    const int64_t next = leaves_of(count);
    for (int64_t k = 0; k < next; ++k) {
      double s[partial_sums] = {};
      const int64_t end = (k + 1) * leaf_size < count ? (k + 1) * leaf_size : count;
      for (int64_t i = k * leaf_size; i < end; ++i) s[i % partial_sums] = s[i % partial_sums] + sums[i];
      sums[k] = add_partials(s);
    }
    count = next;
  }
  return sums[0] == sums[0] ? sums[0] : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace lrcore::sums
