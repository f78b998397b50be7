// The sums of leaves, and of gradients, for one instruction set.
//
// Besides what sweep.h lists, `Isa` provides
//   Wide                                the elements of a lane in float64
//   load_wide(a), load_wide(a, count)   loads and converts a lane
//   add_product(s, x, y)                s + x y. Products of two float32 numbers are exact in float64, so a fused
//                                       operation gives the same bits
//   load(a), store(a, x)                a lane of float64 numbers, in order
#pragma once

#include <algorithm>

#include "../plan.h"
#include "../sums/tree.h"
#include "loops.h"

namespace lrcore::cpu {

/// Adds the terms [begin, end) of a leaf to its partial sums. `add(s, i)` returns the sum of a lane s and the terms
/// from term i on; `add(s, i, count)` adds only `count` terms.
template <class Isa, class Add>
void add_terms(Add add, int64_t begin, int64_t end, double* partial) {
  constexpr int lanes = sums::partial_sums / Isa::width;
  using Wide = typename Isa::Wide;
  Wide s[lanes];
  LRCORE_UNROLL
  for (int k = 0; k < lanes; ++k) s[k] = Isa::load(partial + k * Isa::width);
  for (; begin + sums::partial_sums <= end; begin += sums::partial_sums) {
    LRCORE_UNROLL
    for (int k = 0; k < lanes; ++k) s[k] = add(s[k], begin + k * Isa::width);
  }
  LRCORE_UNROLL
  for (int k = 0; k < lanes; ++k) Isa::store(partial + k * Isa::width, s[k]);
  for (; begin + Isa::width <= end; begin += Isa::width, partial += Isa::width)
    Isa::store(partial, add(Isa::load(partial), begin));
  if constexpr (Isa::width > 1)
    if (begin < end) Isa::store(partial, add(Isa::load(partial), begin, static_cast<int>(end - begin)));
}

/// Adds the products x[i] y[i] of the elements [begin, end) of a leaf to its partial sums.
template <class Isa>
[[gnu::flatten]] void add_products(const float* x, const float* y, int64_t begin, int64_t end, double* partial) {
  using Wide = typename Isa::Wide;
  for (; begin < end && begin % sums::partial_sums != 0; ++begin) {
    double& sum = partial[begin % sums::partial_sums];
    sum = sum + double{x[begin]} * double{y[begin]};
  }
  const auto square = [=](const Wide& s, int64_t i, auto... count) {
    const Wide lane = Isa::load_wide(x + i, count...);
    return Isa::add_product(s, lane, lane);
  };
  const auto product = [=](const Wide& s, int64_t i, auto... count) {
    return Isa::add_product(s, Isa::load_wide(x + i, count...), Isa::load_wide(y + i, count...));
  };
  if (x == y)
    add_terms<Isa>(square, begin, end, partial);
  else
    add_terms<Isa>(product, begin, end, partial);
}

/// Writes the sums of the elements [begin, end) of arrays, added from left to right, to `to`, element `begin` first.
template <class Isa>
[[gnu::flatten]] void add_arrays(const Stream* arrays, int64_t count, int64_t begin, int64_t end, float* to) {
  const auto sum = [=](int64_t i, auto... width) {
    auto lane = Isa::load(elements<const float>(arrays[0]) + i, width...);
    for (int64_t k = 1; k < count; ++k) lane = lane + Isa::load(elements<const float>(arrays[k]) + i, width...);
    Isa::store(to + (i - begin), lane, width...);
  };
  constexpr int lanes = 4;  // at a time, so that the address of an array is loaded once for all of them
  int64_t i = begin;
  for (; i + lanes * Isa::width <= end; i += lanes * Isa::width) {
    typename Isa::Lane sums[lanes];
    const float* first = elements<const float>(arrays[0]) + i;
    LRCORE_UNROLL
    for (int x = 0; x < lanes; ++x) sums[x] = Isa::load(first + x * Isa::width);
    for (int64_t k = 1; k < count; ++k) {
      const float* next = elements<const float>(arrays[k]) + i;
      LRCORE_UNROLL
      for (int x = 0; x < lanes; ++x) sums[x] = sums[x] + Isa::load(next + x * Isa::width);
    }
    LRCORE_UNROLL
    for (int x = 0; x < lanes; ++x) Isa::store(to + (i - begin) + x * Isa::width, sums[x]);
  }
  for (; i + Isa::width <= end; i += Isa::width) sum(i);
  if constexpr (Isa::width > 1)
    if (i < end) sum(i, static_cast<int>(end - i));
}

}  // namespace lrcore::cpu
