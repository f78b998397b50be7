// The two running averages of the Adam family: m of the gradient, v of its square.
//
//   m = BETA1 m + (1 - BETA1) g
//   v = BETA2 v + (1 - BETA2) g^2
#pragma once

#include "vocab.h"

namespace lrcore::rules {

struct Moments {
  float BETA1, ONE_MINUS_BETA1, BETA2, ONE_MINUS_BETA2;

  static Moments from_betas(double beta1, double beta2) {
    return {
        .BETA1 = f32(beta1), .ONE_MINUS_BETA1 = f32(1 - beta1), .BETA2 = f32(beta2), .ONE_MINUS_BETA2 = f32(1 - beta2)};
  }

  template <class L>
  constexpr void operator()(L g, L& m, L& v) const {
    m = BETA1 * m + ONE_MINUS_BETA1 * g;
    v = BETA2 * v + ONE_MINUS_BETA2 * (g * g);
  }
};

}  // namespace lrcore::rules
