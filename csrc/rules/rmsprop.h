// RMSprop. Tieleman & Hinton 2012, "Neural Networks for Machine Learning", lecture 6.5; centered: Graves 2013.
//
//   v = ALPHA v + (1 - ALPHA) g^2
//   w = v, or centered:  a = ALPHA a + (1 - ALPHA) g,  w = max(0, v - a^2)
//   d = sqrt(w) + EPS, or inside:  d = sqrt(w + EPS)
//
//   plain      p = p - LR g / d
//   momentum   b = MU b + g / d,      p = p - LR b
//   velocity   b = MU b + LR g / d,   p = p - b
//
// In float32, v - a^2 can be negative; the maximum keeps the root real.
#pragma once

#include "root.h"

namespace lrcore::rules {

enum class Average { plain, centered };
enum class Move { plain, momentum, velocity };

template <Move move>
struct RMSpropHyper {
  double alpha, eps, momentum;
};
template <>
struct RMSpropHyper<Move::plain> {
  double alpha, eps;
  static constexpr double momentum = 0;
};

template <Average average, Eps where, Move move>
struct RMSprop {
  static constexpr Names states = Names{"square_avg"} + (average == Average::centered ? Names{"grad_avg"} : Names{}) +
                                  (move != Move::plain ? Names{"momentum_buffer"} : Names{});
  static constexpr Names hypers = Names{"alpha", "eps"} + (move != Move::plain ? Names{"momentum"} : Names{});
  using Hyper = RMSpropHyper<move>;

  float ALPHA, ONE_MINUS_ALPHA, LR, EPS, MU;

  static RMSprop constants_at(const Hyper& h, const Instant& now, Memo&) {
    return {.ALPHA = f32(h.alpha),
            .ONE_MINUS_ALPHA = f32(1 - h.alpha),
            .LR = f32(now.lr),
            .EPS = f32(h.eps),
            .MU = f32(h.momentum)};
  }

  template <class L, class... Buffer>
  constexpr void operator()(L& p, L g, L& v, Buffer&... b) const
    requires(average == Average::plain)
  {
    v = ALPHA * v + ONE_MINUS_ALPHA * (g * g);
    descend(p, g, root<where>(v, EPS), b...);
  }

  template <class L, class... Buffer>
  constexpr void operator()(L& p, L g, L& v, L& a, Buffer&... b) const
    requires(average == Average::centered)
  {
    v = ALPHA * v + ONE_MINUS_ALPHA * (g * g);
    a = ALPHA * a + ONE_MINUS_ALPHA * g;
    descend(p, g, root<where>(max(L(0), v - a * a), EPS), b...);
  }

 private:
  template <class L>
  constexpr void descend(L& p, L g, L d) const {
    p = p - LR * (g / d);
  }

  template <class L>
  constexpr void descend(L& p, L g, L d, L& b) const {
    if constexpr (move == Move::momentum) {
      b = MU * b + g / d;
      p = p - LR * b;
    } else {
      b = MU * b + LR * (g / d);
      p = p - b;
    }
  }
};

}  // namespace lrcore::rules
