// Lion. Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2.
//
//   c = BETA1 m + (1 - BETA1) g
//   p = p - LR sign(c)
//   m = BETA2 m + (1 - BETA2) g
#pragma once

#include "vocab.h"

namespace lrcore::rules {

struct Lion {
  static constexpr Names states{"exp_avg"};
  static constexpr Names hypers{"beta1", "beta2"};
  struct Hyper {
    double beta1, beta2;
  };

  float BETA1, ONE_MINUS_BETA1, BETA2, ONE_MINUS_BETA2, LR;

  static Lion constants_at(const Hyper& h, const Instant& now, Memo&) {
    return {.BETA1 = f32(h.beta1),
            .ONE_MINUS_BETA1 = f32(1 - h.beta1),
            .BETA2 = f32(h.beta2),
            .ONE_MINUS_BETA2 = f32(1 - h.beta2),
            .LR = f32(now.lr)};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& m) const {
    const L c = BETA1 * m + ONE_MINUS_BETA1 * g;
    p = p - LR * sign(c);
    m = BETA2 * m + ONE_MINUS_BETA2 * g;
  }
};

}  // namespace lrcore::rules
