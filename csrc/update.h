// One step on one lane of each array: scale, decay, rule, store, average. Sweeps do nothing else to the elements,
// except that they zero the gradients.
#pragma once

#include "rules/vocab.h"

namespace lrcore {

/// Moves an average towards a parameter by a fraction of the distance.
template <class Lane>
constexpr void move_average(Lane& average, Lane p, float averaging) {
  average = average + averaging * (p - average);
}

/// Whether weight decay is added to the gradient: known when the code is compiled, or only from the constants.
enum class Coupled { no, yes, by_row };

template <class Lane, class Rule, Coupled coupled>
struct Update {
  static constexpr int states = Rule::states.count;

  Stages stages;
  Rule rule;

  constexpr Update() : stages(), rule() {}
  constexpr explicit Update(const Constants& constants) : stages(constants.stages) {
    __builtin_memcpy(static_cast<void*>(&rule), constants.rule, sizeof rule);
  }

  /// Updates p and the first `states` of s from g.
  constexpr void operator()(Lane& p, Lane g, Lane (&s)[max_states]) const {
    g = g * stages.gscale;
    if constexpr (coupled == Coupled::yes) g = g + stages.wd * p;
    if constexpr (coupled == Coupled::by_row)
      if (stages.wd != 0) g = g + stages.wd * p;
    p = p * stages.decay_factor;
    apply(p, g, s);
    using rules::flush;
    for (int k = 0; k < states; ++k) s[k] = flush(s[k], stages.flush_mask);
  }

 private:
  /// Calls the rule with p, g and each state as a separate argument. The recursion adds one state at a time to `first`.
  template <class... States>
  constexpr void apply(Lane& p, Lane g, Lane (&s)[max_states], States&... first) const {
    if constexpr (sizeof...(first) < states)
      apply(p, g, s, first..., s[sizeof...(first)]);
    else
      rule(p, g, first...);
  }
};

}  // namespace lrcore
