// Adagrad. Duchi, Hazan & Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization".
//
//   s = s + g^2
//   p = p - LR g / (sqrt(s) + EPS)      adagrad
//   p = p - LR g / sqrt(s + EPS)        adagrad_inside
#pragma once

#include "root.h"

namespace lrcore::rules {

template <Eps where>
struct Adagrad {
  static constexpr Names states{"sum"};
  static constexpr Names hypers{"eps", "lr_decay"};
  struct Hyper {
    double eps, lr_decay;
  };

  float LR, EPS;

  static Adagrad constants_at(const Hyper& h, const Instant& now, Memo&) {
    return {.LR = f32(now.lr / (1 + (now.t - 1) * h.lr_decay)), .EPS = f32(h.eps)};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& s) const {
    s = s + g * g;
    p = p - LR * (g / root<where>(s, EPS));
  }
};

}  // namespace lrcore::rules
