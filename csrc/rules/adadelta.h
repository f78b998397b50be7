// Adadelta. Zeiler 2012, "ADADELTA: An Adaptive Learning Rate Method", algorithm 1.
//
//   v = RHO v + (1 - RHO) g^2
//   d = sqrt(u + EPS) / sqrt(v + EPS) g
//   u = RHO u + (1 - RHO) d^2
//   p = p - LR d
#pragma once

#include "vocab.h"

namespace lrcore::rules {

struct Adadelta {
  static constexpr Names states{"square_avg", "acc_delta"};
  static constexpr Names hypers{"rho", "eps"};
  struct Hyper {
    double rho, eps;
  };

  float RHO, ONE_MINUS_RHO, EPS, LR;

  static Adadelta constants_at(const Hyper& h, const Instant& now, Memo&) {
    return {.RHO = f32(h.rho), .ONE_MINUS_RHO = f32(1 - h.rho), .EPS = f32(h.eps), .LR = f32(now.lr)};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& v, L& u) const {
    v = RHO * v + ONE_MINUS_RHO * (g * g);
    const L d = (sqrt(u + EPS) / sqrt(v + EPS)) * g;
    u = RHO * u + ONE_MINUS_RHO * (d * d);
    p = p - LR * d;
  }
};

}  // namespace lrcore::rules
