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
#include "leaf_sums.h"
#include "loops.h"

namespace lrcore::cpu {

/// What `Step::has_extras` names.
template <class Isa>
class WithExtras {
 public:
  explicit WithExtras(const Step& step)
      : average_(elements<float>(step.average)),
        averaging_(step.averaging),
        zeroed_(step.zeroes_grads ? elements<float>(step.g) : nullptr) {}

  template <class... Count>
  void average(int64_t i, typename Isa::Lane p, Count... count) const {
    if (average_ != nullptr) {
      typename Isa::Lane lane = Isa::load(average_ + i, count...);
      move_average(lane, p, averaging_);
      Isa::store(average_ + i, lane, count...);
    }
  }
  template <class... Count>
  void zero(int64_t i, Count... count) const {
    if (zeroed_ != nullptr) Isa::store(zeroed_ + i, typename Isa::Lane{}, count...);
  }

 private:
  float* average_;  // or null
  float averaging_;
  float* zeroed_;  // the gradients, or null
};

/// Nothing of it, in fewer instructions.
template <class Isa>
struct NoExtras {
  explicit NoExtras(const Step&) {}
  template <class... Count>
  void average(int64_t, typename Isa::Lane, Count...) const {}
  template <class... Count>
  void zero(int64_t, Count...) const {}
};

template <class Isa, class Rule, Coupled coupled, class Extras>
struct LaneUpdate {
  using Lane = typename Isa::Lane;
  static constexpr int states = Rule::states.count;

  Update<Lane, Rule, coupled> update;
  float* p;
  const float* g;
  float* s[max_states];
  [[no_unique_address]] Extras extras;

  LaneUpdate(const Step& step, const Constants& constants)
      : update(constants), p(elements<float>(step.p)), g(elements<const float>(step.g)), extras(step) {
    for (int k = 0; k < states; ++k) s[k] = elements<float>(step.states[k]);
  }

  /// Returns the number of elements from element i to the next address that is aligned to a lane, in the first state.
  /// Rules without states use p.
  int64_t unaligned(int64_t i) const {
    const auto address = reinterpret_cast<uintptr_t>((states > 0 ? s[0] : p) + i);
    return static_cast<int64_t>(-(address / sizeof(float)) % Isa::width);
  }

  /// Updates the lane at element i, or its first `count` elements. All loads come before the stores.
  template <class... Count>
  void operator()(int64_t i, Count... count) const {
    Lane lane_p = Isa::load(p + i, count...);
    const Lane lane_g = Isa::load(g + i, count...);
    Lane lane_s[max_states] = {};
    for (int k = 0; k < states; ++k) lane_s[k] = Isa::load(s[k] + i, count...);

    update(lane_p, lane_g, lane_s);

    extras.average(i, lane_p, count...);
    Isa::store(p + i, lane_p, count...);
    for (int k = 0; k < states; ++k) Isa::store(s[k] + i, lane_s[k], count...);
    extras.zero(i, count...);
  }
};

template <class Isa, class Rule, Coupled coupled, class Extras>
[[gnu::flatten]] void sweep(const Step& step, const Constants& constants, int64_t begin, int64_t end) {
  const LaneUpdate<Isa, Rule, coupled, Extras> update(step, constants);
  // In longer ranges, whole lanes are aligned, because each access across two cache lines takes twice as long. The
  // elements before them are updated afterwards, because a load waits for a preceding partial store close to it.
  const int64_t head = end - begin > 8 * Isa::width ? update.unaligned(begin) : 0;
  const int64_t rest = (end - begin - head) % Isa::width;
  LRCORE_INDEPENDENT
  for (int64_t i = begin + head; i < end - rest; i += Isa::width) update(i);
  if constexpr (Isa::width > 1) {
    if (head != 0) update(begin, static_cast<int>(head));
    if (rest != 0) update(end - rest, static_cast<int>(rest));
  }
}

/// The table of one instruction set, rule by rule in the order of the registry. `Sums` is the one of the sums.
template <class Isa, class Sums = Isa>
consteval SweepTable sweep_table(SweepTable::Shorter shorter = {}) {
  return rules::with_all([=](auto... entry) -> SweepTable {
    return {.sweeps = {{{sweep<Isa, typename decltype(entry)::Rule, Coupled::no, NoExtras<Isa>>,
                         sweep<Isa, typename decltype(entry)::Rule, Coupled::no, WithExtras<Isa>>},
                        {sweep<Isa, typename decltype(entry)::Rule, Coupled::yes, NoExtras<Isa>>,
                         sweep<Isa, typename decltype(entry)::Rule, Coupled::yes, WithExtras<Isa>>}}...},
            .arithmetic_bounds = {arithmetic_bound<Isa, typename decltype(entry)::Rule>...},
            .stream_bounds = {stream_bound<Isa, 0>, stream_bound<Isa, 1>, stream_bound<Isa, 2>, stream_bound<Isa, 3>},
            .add_products = add_products<Sums>,
            .add_arrays = add_arrays<Sums>,
            .shorter = shorter};
  });
}

}  // namespace lrcore::cpu
