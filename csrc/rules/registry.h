// THE list of rules. One line here makes a rule available to every backend, Python, the tests and the benchmarks.
#pragma once

#include "adadelta.h"
#include "adagrad.h"
#include "adam.h"
#include "adamax.h"
#include "entry.h"
#include "lion.h"
#include "nadam.h"
#include "radam.h"
#include "rmsprop.h"
#include "sgd.h"

namespace lrcore::rules {

using enum Eps;

/// Calls `use` with all entries, and returns its result.
template <class Use>
constexpr auto with_all(Use use) {
  // clang-format off
  return use(
      Entry<Sgd>{"sgd"},
      Entry<SgdMomentum>{"sgd_momentum"},
      Entry<SgdNesterov>{"sgd_nesterov"},
      Entry<SgdVelocity>{"sgd_velocity"},
      Entry<SgdNesterovVelocity>{"sgd_nesterov_velocity"},
      Entry<Adagrad<outside>>{"adagrad"},
      Entry<Adagrad<inside>>{"adagrad_inside"},
      Entry<RMSprop<Average::plain, outside, Move::plain>>{"rmsprop"},
      Entry<RMSprop<Average::plain, outside, Move::momentum>>{"rmsprop_momentum"},
      Entry<RMSprop<Average::plain, outside, Move::velocity>>{"rmsprop_velocity"},
      Entry<RMSprop<Average::plain, inside, Move::plain>>{"rmsprop_inside"},
      Entry<RMSprop<Average::plain, inside, Move::momentum>>{"rmsprop_inside_momentum"},
      Entry<RMSprop<Average::plain, inside, Move::velocity>>{"rmsprop_inside_velocity"},
      Entry<RMSprop<Average::centered, outside, Move::plain>>{"rmsprop_centered"},
      Entry<RMSprop<Average::centered, outside, Move::momentum>>{"rmsprop_centered_momentum"},
      Entry<RMSprop<Average::centered, outside, Move::velocity>>{"rmsprop_centered_velocity"},
      Entry<RMSprop<Average::centered, inside, Move::plain>>{"rmsprop_centered_inside"},
      Entry<RMSprop<Average::centered, inside, Move::momentum>>{"rmsprop_centered_inside_momentum"},
      Entry<RMSprop<Average::centered, inside, Move::velocity>>{"rmsprop_centered_inside_velocity"},
      Entry<Adadelta>{"adadelta"},
      Entry<Adam>{"adam"},
      Entry<AdamHat>{"adam_hat"},
      Entry<AMSGrad<Adam>>{"adam_amsgrad"},
      Entry<AMSGrad<AdamHat>>{"adam_amsgrad_hat"},
      Entry<NAdam>{"nadam"},
      Entry<RAdam>{"radam"},
      Entry<Adamax>{"adamax"},
      Entry<Lion>{"lion"});
  // clang-format on
}

inline constexpr int count = with_all([](auto... entry) { return static_cast<int>(sizeof...(entry)); });

}  // namespace lrcore::rules
