// One float at a time: plain C++, which the compiler vectorises for the baseline instruction set.
#pragma once

#include "../rules/vocab.h"

namespace lrcore::cpu {
namespace {

struct Portable {
  using Lane = float;
  static constexpr int width = 1;

  static float load(const float* a) { return *a; }
  static void store(float* a, float x) { *a = x; }
};

}  // namespace
}  // namespace lrcore::cpu
