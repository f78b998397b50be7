// The tables of sweeps: one for each instruction set, and one for the simulated grid.
#pragma once

#include "../rules/registry.h"

namespace lrcore::cpu {

/// A backend's sweeps by rule, without and with coupled decay; its arithmetic bounds by rule; and its stream bounds by
/// number of states.
struct SweepTable {
  Sweep sweeps[rules::count][2];
  Sweep arithmetic_bounds[rules::count];
  Sweep stream_bounds[max_states + 1];
};

extern const SweepTable portable_sweeps;
extern const SweepTable avx2_sweeps;
extern const SweepTable avx512_sweeps;
extern const SweepTable emulated_sweeps;

}  // namespace lrcore::cpu
