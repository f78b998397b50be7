// Lion. Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2.
//
//   c = B1 m + (1 - B1) g
//   p = p - LR sign(c)
//   m = B2 m + (1 - B2) g
#pragma once

#include "vocab.h"

namespace lrcore::rules {

struct Lion {
  static constexpr Names states{"exp_avg"};
  static constexpr Names hypers{"beta1", "beta2"};
  struct Hyper {
    double beta1, beta2;
  };

  float B1, B1C, B2, B2C, LR;

  static Lion fold(const Hyper& h, const Clock& now, Memo&) {
    return {
        .B1 = f32(h.beta1), .B1C = f32(1 - h.beta1), .B2 = f32(h.beta2), .B2C = f32(1 - h.beta2), .LR = f32(now.lr)};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& m) const {
    const L c = B1 * m + B1C * g;
    p = p - LR * sign(c);
    m = B2 * m + B2C * g;
  }
};

}  // namespace lrcore::rules
