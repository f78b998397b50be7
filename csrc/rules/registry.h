// THE list of rules. A rule is known to every backend, to Python, to the tests and to the benchmarks by its line here.
#pragma once

#include "adadelta.h"
#include "adagrad.h"
#include "adam.h"
#include "adamax.h"
#include "lion.h"
#include "nadam.h"
#include "radam.h"
#include "rmsprop.h"
#include "sgd.h"

namespace lrcore {

/// A string as a template argument.
template <unsigned n>
struct Text {
  char chars[n];
  constexpr Text(const char (&text)[n]) {
    for (unsigned i = 0; i < n; ++i) chars[i] = text[i];
  }
};

/// A line of the list: the public name and the rule.
template <Text public_name, class R>
struct Entry {
  static constexpr auto name = public_name;
  using Rule = R;
};

template <class... Entries>
struct List {
  static constexpr int size = sizeof...(Entries);
};

namespace rules {

using enum Eps;

// clang-format off
using Registry = List<
    Entry<"sgd", Sgd>,
    Entry<"sgd_momentum", SgdMomentum>,
    Entry<"sgd_nesterov", SgdNesterov>,
    Entry<"sgd_velocity", SgdVelocity>,
    Entry<"sgd_nesterov_velocity", SgdNesterovVelocity>,
    Entry<"adagrad", Adagrad<outside>>,
    Entry<"adagrad_inside", Adagrad<inside>>,
    Entry<"rmsprop", RMSprop<Average::plain, outside, Move::plain>>,
    Entry<"rmsprop_momentum", RMSprop<Average::plain, outside, Move::momentum>>,
    Entry<"rmsprop_velocity", RMSprop<Average::plain, outside, Move::velocity>>,
    Entry<"rmsprop_inside", RMSprop<Average::plain, inside, Move::plain>>,
    Entry<"rmsprop_inside_momentum", RMSprop<Average::plain, inside, Move::momentum>>,
    Entry<"rmsprop_inside_velocity", RMSprop<Average::plain, inside, Move::velocity>>,
    Entry<"rmsprop_centered", RMSprop<Average::centered, outside, Move::plain>>,
    Entry<"rmsprop_centered_momentum", RMSprop<Average::centered, outside, Move::momentum>>,
    Entry<"rmsprop_centered_velocity", RMSprop<Average::centered, outside, Move::velocity>>,
    Entry<"rmsprop_centered_inside", RMSprop<Average::centered, inside, Move::plain>>,
    Entry<"rmsprop_centered_inside_momentum", RMSprop<Average::centered, inside, Move::momentum>>,
    Entry<"rmsprop_centered_inside_velocity", RMSprop<Average::centered, inside, Move::velocity>>,
    Entry<"adadelta", Adadelta>,
    Entry<"adam", Adam>,
    Entry<"adam_hat", AdamHat>,
    Entry<"adam_amsgrad", AMSGrad<Adam>>,
    Entry<"adam_amsgrad_hat", AMSGrad<AdamHat>>,
    Entry<"nadam", NAdam>,
    Entry<"radam", RAdam>,
    Entry<"adamax", Adamax>,
    Entry<"lion", Lion>>;
// clang-format on

}  // namespace rules

/// A backend's kernels: the sweep of each rule, without and with coupled decay, and the limit loops by number of
/// states.
struct Kernels {
  Sweep sweeps[rules::Registry::size][2];
  Sweep limits[max_states + 1];
};

}  // namespace lrcore
