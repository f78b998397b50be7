// Adamax. Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization", section 7, algorithm 2.
//
//   m = BETA1 m + (1 - BETA1) g
//   u = max(BETA2 u, |g| + EPS)
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

  float BETA1, ONE_MINUS_BETA1, BETA2, EPS, STEP;

  static Adamax constants_at(const Hyper& h, const Instant& now, Memo&) {
    return {.BETA1 = f32(h.beta1),
            .ONE_MINUS_BETA1 = f32(1 - h.beta1),
            .BETA2 = f32(h.beta2),
            .EPS = f32(h.eps),
            .STEP = f32(now.lr / correction(h.beta1, now.t))};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& m, L& u) const {
    m = BETA1 * m + ONE_MINUS_BETA1 * g;
    u = max(BETA2 * u, abs(g) + EPS);
    p = p - STEP * (m / u);
  }
};

}  // namespace lrcore::rules
