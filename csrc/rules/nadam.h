// NAdam. Dozat 2016, "Incorporating Nesterov Momentum into Adam".
//
//   mu(k) = beta1 (1 - 0.5 0.96^(k momentum_decay)),   P(t) = mu(1) mu(2) ... mu(t)
//   CG = lr (1 - mu(t)) / (1 - P(t)),   CM = lr mu(t+1) / (1 - P(t) mu(t+1))
//
//   m, v = moments(g)
//   p = p - (CG g + CM m) / (sqrt(v) ROOT + EPS)
#pragma once

#include "moments.h"

namespace lrcore::rules {

struct NAdam {
  static constexpr Names states{"exp_avg", "exp_avg_sq"};
  static constexpr Names hypers{"beta1", "beta2", "eps", "momentum_decay"};
  struct Hyper {
    double beta1, beta2, eps, momentum_decay;
  };

  Moments moments;
  float CG, CM, ROOT, EPS;

  static double mu(const Hyper& h, double k) { return h.beta1 * (1 - 0.5 * pow(0.96, k * h.momentum_decay)); }

  /// Returns P(t), multiplied in order and continued from the memo if possible. Once the product falls below 2^-60, it
  /// becomes 0 and stays 0, which bounds the work; 1 - P is already exactly 1 by then.
  static double product(const Hyper& h, double t, Memo& memo) {
    if (memo.key[0] != h.beta1 || memo.key[1] != h.momentum_decay || memo.t > t)
      memo = {.key = {h.beta1, h.momentum_decay}};
    while (memo.t < t && memo.value != 0) {
      memo.t += 1;
      memo.value *= mu(h, memo.t);
      if (memo.value < 0x1p-60) memo.value = 0;
    }
    return memo.value;
  }

  static NAdam constants_at(const Hyper& h, const Instant& now, Memo& memo) {
    const double P = product(h, now.t, memo);
    const double next = mu(h, now.t + 1);
    return {.moments = Moments::from_betas(h.beta1, h.beta2),
            .CG = f32(now.lr * (1 - mu(h, now.t)) / (1 - P)),
            .CM = f32(now.lr * next / (1 - P * next)),
            .ROOT = f32(1 / sqrt(correction(h.beta2, now.t))),
            .EPS = f32(h.eps)};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& m, L& v) const {
    moments(g, m, v);
    p = p - (CG * g + CM * m) / (sqrt(v) * ROOT + EPS);
  }
};

}  // namespace lrcore::rules
