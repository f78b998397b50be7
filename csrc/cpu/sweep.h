// The CPU loop around every rule. The remainder goes through the same functor as the body.
//
// An instruction set `Isa` provides
//   Lane                                  the lane type, with the vocabulary of rules/vocab.h
//   width                                 elements in a lane
//   load(a), store(a, x)                  a whole lane
//   load(a, count), store(a, x, count)    its first `count` elements; the others are not accessed (only if width > 1)
// `Isa` has internal linkage, and therefore so does everything instantiated from it here: objects that are compiled for
// different instruction sets share nothing.
#pragma once

#include "../update.h"
#include "backends.h"
#include "bounds.h"
#include "loops.h"

namespace lrcore::cpu {

template <class Isa, class Rule, bool coupled>
struct Streams {
  using Lane = typename Isa::Lane;
  static constexpr int states = Rule::states.count;

  Update<Lane, Rule, coupled> update;
  float* p;
  const float* g;
  float* s[max_states];

  explicit Streams(const Step& step)
      : update(step.constants), p(step.p), g(step.g), s{step.states[0], step.states[1], step.states[2]} {}

  /// Updates the lane at element i, or its first `count` elements.
  template <class... Count>
  void operator()(int64_t i, Count... count) const {
    Lane lane_p = Isa::load(p + i, count...);
    const Lane lane_g = Isa::load(g + i, count...);
    Lane lane_s[max_states] = {};
    for (int k = 0; k < states; ++k) lane_s[k] = Isa::load(s[k] + i, count...);

    update(lane_p, lane_g, lane_s);

    Isa::store(p + i, lane_p, count...);
    for (int k = 0; k < states; ++k) Isa::store(s[k] + i, lane_s[k], count...);
  }
};

template <class Isa, class Rule, bool coupled>
[[gnu::flatten]] void sweep(const Step& step, int64_t begin, int64_t end) {
  const Streams<Isa, Rule, coupled> update(step);
  int64_t i = begin;
  LRCORE_INDEPENDENT
  for (; i + Isa::width <= end; i += Isa::width) update(i);
  if constexpr (Isa::width > 1)
    if (i < end) update(i, static_cast<int>(end - i));
}

/// The table of one instruction set, rule by rule in the order of the registry.
template <class Isa>
consteval SweepTable sweep_table() {
  return rules::with_all([](auto... entry) -> SweepTable {
    return {.sweeps = {{sweep<Isa, typename decltype(entry)::Rule, false>,
                        sweep<Isa, typename decltype(entry)::Rule, true>}...},
            .arithmetic_bounds = {arithmetic_bound<Isa, typename decltype(entry)::Rule>...},
            .stream_bounds = {stream_bound<Isa, 0>, stream_bound<Isa, 1>, stream_bound<Isa, 2>, stream_bound<Isa, 3>}};
  });
}

}  // namespace lrcore::cpu
