// The sums of leaves, for one instruction set.
//
// Besides what sweep.h lists, `Isa` provides
//   Wide                                the elements of a lane in float64
//   widen(x)                            converts a lane
//   load_wide(a), load_wide(a, count)   loads and converts a lane
//   add_product(s, x, y)                s + x y. Products of two float32 numbers are exact in float64, so a fused
//                                       operation gives the same bits
//   load(a), store(a, x)                a lane of float64 numbers, in order
#pragma once

#include <algorithm>

#include "../sums/tree.h"
#include "loops.h"

namespace lrcore::cpu {

/// The factors of some terms.
template <class Wide>
struct Factors {
  Wide x, y;
};

/// Returns the sum of the terms [begin, end) of one leaf. `factors(i)` returns those of the terms that fit in a lane,
/// from term i on; `factors(i, count)` returns those of `count` terms, followed by zeros.
template <class Isa, class FactorsOf>
double leaf_sum(FactorsOf factors, int64_t begin, int64_t end) {
  constexpr int lanes = sums::partial_sums / Isa::width;
  using Wide = typename Isa::Wide;
  const auto plus = [&](Wide sum, const Factors<Wide>& of) { return Isa::add_product(sum, of.x, of.y); };
  Wide s[lanes] = {};
  for (; begin + sums::partial_sums <= end; begin += sums::partial_sums) {
    LRCORE_UNROLL
    for (int k = 0; k < lanes; ++k) s[k] = plus(s[k], factors(begin + k * Isa::width));
  }
  alignas(64) double partial[sums::partial_sums];
  LRCORE_UNROLL
  for (int k = 0; k < lanes; ++k) Isa::store(partial + k * Isa::width, s[k]);
  double* rest = partial;
  for (; begin + Isa::width <= end; begin += Isa::width, rest += Isa::width)
    Isa::store(rest, plus(Isa::load(rest), factors(begin)));
  if constexpr (Isa::width > 1)
    if (begin < end) Isa::store(rest, plus(Isa::load(rest), factors(begin, static_cast<int>(end - begin))));
  return sums::add_partials(partial);
}

/// Writes the sums of the leaves [begin, end) of the products x[i] y[i], of which there are n.
template <class Isa>
[[gnu::flatten]] void leaf_sums(const float* x, const float* y, int64_t n, int64_t begin, int64_t end, double* sums) {
  using Wide = typename Isa::Wide;
  const auto square = [&](int64_t i, auto... count) {
    const Wide lane = Isa::load_wide(x + i, count...);
    return Factors<Wide>{lane, lane};
  };
  const auto product = [&](int64_t i, auto... count) {
    return Factors<Wide>{Isa::load_wide(x + i, count...), Isa::load_wide(y + i, count...)};
  };
  for (int64_t leaf = begin; leaf < end; ++leaf) {
    const int64_t first = leaf * sums::leaf_size;
    const int64_t last = std::min(first + sums::leaf_size, n);
    sums[leaf - begin] = x == y ? leaf_sum<Isa>(square, first, last) : leaf_sum<Isa>(product, first, last);
  }
}

}  // namespace lrcore::cpu
