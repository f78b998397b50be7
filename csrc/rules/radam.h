// RAdam. Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond", algorithm 2.
//
// Adam's equation with different constants:
//
//   rho_inf = 2 / (1 - beta2) - 1,   rho = rho_inf - 2 t beta2^t / (1 - beta2^t)
//   rho > 5   STEP = lr sqrt(1 - beta2^t) / (1 - beta1^t) r,   ROOT = 1,   EPS = eps,
//             r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
//   else      STEP = lr / (1 - beta1^t),   ROOT = 0,   EPS = 1        (no adaptation yet)
#pragma once

#include "adam.h"

namespace lrcore::rules {

struct RAdam : Adam {
  static Adam constants_at(const Hyper& h, const Instant& now, Memo&) {
    const Moments moments = Moments::from_betas(h.beta1, h.beta2);
    const double decayed = pow(h.beta2, now.t);
    const double correction1 = correction(h.beta1, now.t);
    const double correction2 = 1 - decayed;
    const double rho_inf = 2 / (1 - h.beta2) - 1;
    const double rho = rho_inf - 2 * now.t * decayed / correction2;
    if (rho > 5) {
      const double r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho));
      return {
          .moments = moments, .STEP = f32(now.lr * sqrt(correction2) / correction1 * r), .ROOT = 1, .EPS = f32(h.eps)};
    }
    return {.moments = moments, .STEP = f32(now.lr / correction1), .ROOT = 0, .EPS = 1};
  }
};

}  // namespace lrcore::rules
