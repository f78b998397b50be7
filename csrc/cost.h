// The expensive arithmetic of a rule, counted by running the rule on a lane that counts operations.
#pragma once

#include "rules/vocab.h"
#include "update.h"

namespace lrcore::rules {

/// Divisions and square roots per element. A processor starts about ten multiplications in the time of one division or
/// root.
struct Cost {
  int divisions = 0;
  int roots = 0;
};

/// A stand-in for a number, which counts its operations in `cost`.
struct Counted {
  Cost* cost = nullptr;

  constexpr Counted() = default;
  constexpr Counted(float) {}
  constexpr explicit Counted(Cost& where) : cost(&where) {}

  friend constexpr Counted operator+(Counted a, Counted b) { return a.cost ? a : b; }
  friend constexpr Counted operator-(Counted a, Counted b) { return a + b; }
  friend constexpr Counted operator*(Counted a, Counted b) { return a + b; }
  friend constexpr Counted operator/(Counted a, Counted b) { return ++(a + b).cost->divisions, a + b; }
  friend constexpr Counted sqrt(Counted a) { return ++a.cost->roots, a; }
  friend constexpr Counted abs(Counted a) { return a; }
  friend constexpr Counted max(Counted a, Counted b) { return a + b; }
  friend constexpr Counted sign(Counted a) { return a; }
  friend constexpr Counted flush(Counted a, uint32_t) { return a; }
};

template <class Rule>
consteval Cost cost() {
  Cost found;
  Counted p(found), g(found), s[max_states] = {Counted(found), Counted(found), Counted(found)};
  Update<Counted, Rule, Coupled::no>()(p, g, s);
  return found;
}

}  // namespace lrcore::rules
