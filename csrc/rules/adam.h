// Adam. Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization", algorithm 1; AMSGrad: Reddi et al. 2018.
// AdamW (Loshchilov & Hutter 2019) is Adam with decoupled weight decay, which is a stage around every rule.
//
//   m, v = moments(g)
//   x = max(x, v), and x replaces v below       amsgrad
//   p = p - STEP m / (sqrt(v) ROOT + EPS)
//
//   corrected   STEP = lr / (1 - beta1^t),                       ROOT = 1 / sqrt(1 - beta2^t)
//   hat         STEP = lr sqrt(1 - beta2^t) / (1 - beta1^t),     ROOT = 1      (end of section 2 of the paper)
#pragma once

#include "moments.h"

namespace lrcore::rules {

struct Adam {
  static constexpr Names states{"exp_avg", "exp_avg_sq"};
  static constexpr Names hypers{"beta1", "beta2", "eps"};
  struct Hyper {
    double beta1, beta2, eps;
  };

  Moments moments;
  float STEP, ROOT, EPS;

  static Adam constants_at(const Hyper& h, const Instant& now, Memo&) {
    return {.moments = Moments::from_betas(h.beta1, h.beta2),
            .STEP = f32(now.lr / correction(h.beta1, now.t)),
            .ROOT = f32(1 / sqrt(correction(h.beta2, now.t))),
            .EPS = f32(h.eps)};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& m, L& v) const {
    moments(g, m, v);
    descend(p, m, v);
  }

  template <class L>
  constexpr void descend(L& p, L m, L v) const {
    p = p - STEP * (m / (sqrt(v) * ROOT + EPS));
  }
};

struct AdamHat : Adam {
  static Adam constants_at(const Hyper& h, const Instant& now, Memo&) {
    return {.moments = Moments::from_betas(h.beta1, h.beta2),
            .STEP = f32(now.lr * sqrt(correction(h.beta2, now.t)) / correction(h.beta1, now.t)),
            .ROOT = 1,
            .EPS = f32(h.eps)};
  }
};

/// The AMSGrad variant of Adam or AdamHat.
template <class Base>
struct AMSGrad : Base {
  static constexpr Names states = Base::states + Names{"max_exp_avg_sq"};

  template <class L>
  constexpr void operator()(L& p, L g, L& m, L& v, L& x) const {
    this->moments(g, m, v);
    x = max(x, v);
    this->descend(p, m, x);
  }
};

}  // namespace lrcore::rules
