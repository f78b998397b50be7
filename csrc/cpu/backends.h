// The tables that the per-instruction-set files emit, and that of the simulated grid.
#pragma once

#include "../rules/registry.h"

namespace lrcore::cpu {

/// A backend's sweep of each rule, without and with coupled decay; the arithmetic bound of each rule; and the stream
/// bound by number of states.
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
