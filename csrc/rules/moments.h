// The two running averages of the Adam family: m of the gradient, v of its square.
//
//   m = B1 m + (1 - B1) g
//   v = B2 v + (1 - B2) g^2
#pragma once

#include "vocab.h"

namespace lrcore::rules {

struct Moments {
  float B1, B1C, B2, B2C;

  static Moments fold(double beta1, double beta2) {
    return {.B1 = f32(beta1), .B1C = f32(1 - beta1), .B2 = f32(beta2), .B2C = f32(1 - beta2)};
  }

  template <class L>
  constexpr void operator()(L g, L& m, L& v) const {
    m = B1 * m + B1C * g;
    v = B2 * v + B2C * (g * g);
  }
};

}  // namespace lrcore::rules
