// The limit loop: reads and writes the streams of a step with next to no arithmetic. What it takes is what memory
// takes; benchmarks hold the sweeps against it. It has a loop of its own, so that a slow sweep cannot hide behind
// itself.
#pragma once

#include "../step.h"

namespace lrcore::cpu {

/// p = p + g and each of the `states` states = itself + g.
template <class Isa, int states>
[[gnu::flatten]] void limit(const Step& step, int64_t begin, int64_t end) {
  float* const p = step.p;
  const float* const g = step.g;
  float* const s[max_states] = {step.states[0], step.states[1], step.states[2]};
#pragma GCC ivdep
  for (int64_t i = begin; i + Isa::width <= end; i += Isa::width) {
    const auto lane_g = Isa::load(g + i);
    Isa::store(p + i, Isa::load(p + i) + lane_g);
    for (int k = 0; k < states; ++k) Isa::store(s[k] + i, Isa::load(s[k] + i) + lane_g);
  }
}

}  // namespace lrcore::cpu
