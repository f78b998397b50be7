// The tables of sweeps: one for each instruction set, and one for the simulated grid.
#pragma once

#include "../rules/registry.h"

namespace lrcore::cpu {

/// Writes the sums of the leaves [begin, end) of the products x[i] y[i], of which there are n.
using LeafSums = void (*)(const float* x, const float* y, int64_t n, int64_t begin, int64_t end, double* sums);

/// A backend's sweeps by rule, without and with coupled decay; its arithmetic bounds by rule; its stream bounds by
/// number of states; and its sums.
struct SweepTable {
  Sweep sweeps[rules::count][2];
  Sweep arithmetic_bounds[rules::count];
  Sweep stream_bounds[max_states + 1];
  LeafSums leaf_sums;
};

extern const SweepTable portable_sweeps;
extern const SweepTable avx2_sweeps;
extern const SweepTable avx512_sweeps;
extern const SweepTable emulated_sweeps;

}  // namespace lrcore::cpu
