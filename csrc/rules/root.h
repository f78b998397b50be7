// The root of an accumulated square, with epsilon outside it (the default) or inside it.
#pragma once

#include "vocab.h"

namespace lrcore::rules {

enum class Eps { outside, inside };

template <Eps where, class L>
constexpr L root(L square, float eps) {
  if constexpr (where == Eps::inside)
    return sqrt(square + eps);
  else
    return sqrt(square) + eps;
}

}  // namespace lrcore::rules
