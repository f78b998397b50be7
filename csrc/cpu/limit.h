// What benchmarks hold the sweeps against. The limit loop reads and writes the streams of a step with next to no
// arithmetic: what it takes is what memory takes. The loop of divisions does those of a rule, and its roots, over two
// streams: in cache, what it takes is what the arithmetic takes. They have loops of their own, so that a slow sweep
// cannot hide behind itself.
#pragma once

#include "../rules/cost.h"

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

/// p = g / sqrt(p), with as many divisions and roots as the rule has. From p and g around 1 the values stay there.
template <class Isa, class Rule>
[[gnu::flatten]] void divide(const Step& step, int64_t begin, int64_t end) {
  using rules::sqrt;
  constexpr rules::Cost cost = rules::cost<Rule>();
  float* const p = step.p;
  const float* const g = step.g;
#pragma GCC ivdep
  for (int64_t i = begin; i + Isa::width <= end; i += Isa::width) {
    auto lane_p = Isa::load(p + i);
    const auto lane_g = Isa::load(g + i);
    for (int k = 0; k < cost.roots; ++k) lane_p = sqrt(lane_p);
    for (int k = 0; k < cost.divisions; ++k) lane_p = lane_g / lane_p;
    Isa::store(p + i, lane_p);
  }
}

}  // namespace lrcore::cpu
