// What is slow in a rule beside memory: counted by running the rule on a lane that counts.
#pragma once

#include "rules/vocab.h"
#include "update.h"

namespace lrcore::rules {

/// Divisions and square roots of one element. A processor starts one of them where it starts ten products.
struct Cost {
  int divisions = 0;
  int roots = 0;
};

/// Stands for a number, and knows where to count.
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
  Update<Counted, Rule, false>()(p, g, s);
  return found;
}

}  // namespace lrcore::rules
