// One float at a time: plain C++, which the compiler vectorises for the baseline instruction set.
#pragma once

#include "../rules/vocab.h"

namespace lrcore::cpu {
namespace {

struct Portable {
  using Lane = float;
  using Wide = double;
  static constexpr int width = 1;

  static float load(const float* a) { return *a; }
  static void store(float* a, float x) { *a = x; }

  static double load_wide(const float* a) { return static_cast<double>(*a); }
  static double add_product(double s, double x, double y) { return s + x * y; }
  static double load(const double* a) { return *a; }
  static void store(double* a, double x) { *a = x; }
};

}  // namespace
}  // namespace lrcore::cpu
