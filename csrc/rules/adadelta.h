// Adadelta. Zeiler 2012, "ADADELTA: An Adaptive Learning Rate Method", algorithm 1.
//
//   v = R v + (1 - R) g^2
//   d = sqrt(u + EPS) / sqrt(v + EPS) g
//   u = R u + (1 - R) d^2
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

  float R, R1, EPS, LR;

  static Adadelta fold(const Hyper& h, const Clock& now, Memo&) {
    return {.R = f32(h.rho), .R1 = f32(1 - h.rho), .EPS = f32(h.eps), .LR = f32(now.lr)};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& v, L& u) const {
    v = R * v + R1 * (g * g);
    const L d = (sqrt(u + EPS) / sqrt(v + EPS)) * g;
    u = R * u + R1 * (d * d);
    p = p - LR * d;
  }
};

}  // namespace lrcore::rules
