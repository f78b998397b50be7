// The tables of sweeps: one for each instruction set, and one for the simulated grid.
#pragma once

#include "../rules/registry.h"

namespace lrcore::cpu {

/// Adds the products x[i] y[i] of the elements [begin, end) of a leaf to its partial sums.
using AddProducts = void (*)(const float* x, const float* y, int64_t begin, int64_t end, double* partial);

/// Writes the sums of the elements [begin, end) of arrays, added from left to right, to `to`, element `begin` first.
using AddArrays = void (*)(const Stream* arrays, int64_t count, int64_t begin, int64_t end, float* to);

/// The number of elements of such a sum that are computed before they are used. They are then in the first cache, and
/// so few that the processor loads the next ones in the meantime: with 2,048, a step of Adam with the sum of four
/// gradients of 10 million elements takes 1.3 times as long on a Zen 5.
inline constexpr int64_t sum_block = 128;

/// A backend's sweeps by rule, without and with coupled decay, each without and with what `Step::has_extras` names; its
/// arithmetic bounds by rule; its stream bounds by number of states; and its sums.
struct SweepTable {
  /// The table whose sweeps update ranges of fewer than `shortest` elements, because they take less time for the
  /// remainder.
  struct Shorter {
    const SweepTable* table = nullptr;
    int64_t shortest = 0;
  };

  Sweep sweeps[rules::count][2][2];
  Sweep arithmetic_bounds[rules::count];
  Sweep stream_bounds[max_states + 1];
  AddProducts add_products;
  AddArrays add_arrays;
  Shorter shorter = {};
};

extern const SweepTable portable_sweeps;
extern const SweepTable avx2_sweeps;
extern const SweepTable avx512_sweeps;
extern const SweepTable avx512_pair_sweeps;
extern const SweepTable emulated_sweeps;

}  // namespace lrcore::cpu
