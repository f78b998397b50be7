// Stochastic gradient descent, plain and with momentum.
//
// Robbins & Monro 1951; Polyak 1964 (momentum); Nesterov 1983, in the form of Sutskever et al. 2013.
//
//   sgd                     p = p - LR g
//   sgd_momentum            b = MU b + DAMP g,  p = p - LR b
//   sgd_nesterov            b = MU b + g,       p = p - LR (g + MU b)
//   sgd_velocity            b = MU b + LR g,    p = p - b
//   sgd_nesterov_velocity   b = MU b + LR g,    p = p - (MU b + LR g)
//
// The velocity forms include the learning rate in b. At a constant rate they are equivalent to the others.
#pragma once

#include "vocab.h"

namespace lrcore::rules {

struct Sgd {
  static constexpr Names states{};
  static constexpr Names hypers{};
  struct Hyper {};

  float LR;

  static Sgd constants_at(const Hyper&, const Instant& now, Memo&) { return {.LR = f32(now.lr)}; }

  template <class L>
  constexpr void operator()(L& p, L g) const {
    p = p - LR * g;
  }
};

struct SgdMomentum {
  static constexpr Names states{"momentum_buffer"};
  static constexpr Names hypers{"momentum", "dampening"};
  struct Hyper {
    double momentum, dampening;
  };

  float MU, DAMP, LR;

  static SgdMomentum constants_at(const Hyper& h, const Instant& now, Memo&) {
    // The first step is not dampened: the first velocity is the gradient.
    const double damp = now.t == 1 ? 1 : 1 - h.dampening;
    return {.MU = f32(h.momentum), .DAMP = f32(damp), .LR = f32(now.lr)};
  }

  template <class L>
  constexpr void operator()(L& p, L g, L& b) const {
    b = MU * b + DAMP * g;
    p = p - LR * b;
  }
};

/// The common part of the forms without dampening.
struct SgdUndamped {
  static constexpr Names states{"momentum_buffer"};
  static constexpr Names hypers{"momentum"};
  struct Hyper {
    double momentum;
  };

  float MU, LR;

  static SgdUndamped constants_at(const Hyper& h, const Instant& now, Memo&) {
    return {.MU = f32(h.momentum), .LR = f32(now.lr)};
  }
};

struct SgdNesterov : SgdUndamped {
  template <class L>
  constexpr void operator()(L& p, L g, L& b) const {
    b = MU * b + g;
    p = p - LR * (g + MU * b);
  }
};

struct SgdVelocity : SgdUndamped {
  template <class L>
  constexpr void operator()(L& p, L g, L& b) const {
    b = MU * b + LR * g;
    p = p - b;
  }
};

struct SgdNesterovVelocity : SgdUndamped {
  template <class L>
  constexpr void operator()(L& p, L g, L& b) const {
    b = MU * b + LR * g;
    p = p - (MU * b + LR * g);
  }
};

}  // namespace lrcore::rules
