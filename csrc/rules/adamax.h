// Adamax. Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization", section 7, algorithm 2.
//
//   m = B1 m + (1 - B1) g
//   u = max(B2 u, |g| + EPS)
//   p = p - STEP m / u,   STEP = lr / (1 - beta1^t)
#pragma once

#include "vocab.h"

namespace lrcore::rules {

struct Adamax {
  static constexpr Names states{"exp_avg", "exp_inf"};
  static constexpr Names hypers{"beta1", "beta2", "eps"};
  struct Hyper {
    double beta1, beta2, eps;
  };

  float B1, B1C, B2, EPS, STEP;

  static Adamax fold(const Hyper& h, const Clock& now, Memo&) {
    return {.B1 = f32(h.beta1),
            .B1C = f32(1 - h.beta1),
            .B2 = f32(h.beta2),
            .EPS = f32(h.eps),
            .STEP = f32(now.lr / (1 - pow(h.beta1, now.t)))};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& m, L& u) const {
    m = B1 * m + B1C * g;
    u = max(B2 * u, abs(g) + EPS);
    p = p - STEP * (m / u);
  }
};

}  // namespace lrcore::rules
