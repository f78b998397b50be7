// Lower bounds on the time of a step, for benchmarks. The stream bound reads and writes the arrays of a step with
// almost no arithmetic, so it measures memory. The arithmetic bound performs as many divisions and roots as a rule, so
// it measures the divider if the arrays are in cache. Neither bound uses the loop of the sweeps: if they shared it, a
// slow loop would go unnoticed.
#pragma once

#include "../cost.h"
#include "loops.h"

namespace lrcore::cpu {

/// p = p + g, or p = g / sqrt(p) with as many divisions and roots as in `cost`; and s = s + g for each of the `states`
/// states. If p and g are near 1, the divisions keep p near 1.
template <class Isa, int states, rules::Cost cost = rules::Cost{}>
[[gnu::flatten]] void stream_bound(const Step& step, const Constants&, int64_t begin, int64_t end) {
  using rules::sqrt;
  float* const p = elements<float>(step.p);
  const float* const g = elements<const float>(step.g);
  float* s[max_states];
  for (int k = 0; k < max_states; ++k) s[k] = elements<float>(step.states[k]);
  LRCORE_INDEPENDENT
  for (int64_t i = begin; i + Isa::width <= end; i += Isa::width) {
    const auto lane_g = Isa::load(g + i);
    auto lane_p = Isa::load(p + i);
    typename Isa::Lane lane_s[max_states] = {};
    for (int k = 0; k < states; ++k) lane_s[k] = Isa::load(s[k] + i);  // before the stores, as in a sweep
    for (int k = 0; k < cost.roots; ++k) lane_p = sqrt(lane_p);
    for (int k = 0; k < cost.divisions; ++k) lane_p = lane_g / lane_p;
    if constexpr (cost.divisions + cost.roots == 0) lane_p = lane_p + lane_g;
    Isa::store(p + i, lane_p);
    for (int k = 0; k < states; ++k) Isa::store(s[k] + i, lane_s[k] + lane_g);
  }
}

/// The bound with as many arrays, divisions and roots as a rule has.
template <class Isa, class Rule>
constexpr Sweep arithmetic_bound = stream_bound<Isa, Rule::states.count, rules::cost<Rule>()>;

}  // namespace lrcore::cpu
