// The operations that a rule may use, for a lane of one float, as in the portable loop and in CUDA. Wider lanes define
// their own.
//
//   + - * /    IEEE-754 float32, round to nearest even, never fused
//   sqrt(x)    correctly rounded
//   abs(x)     clears the sign bit, even of NaN and -0
//   max(a, b)  a > b ? a : b; therefore b if they are equal (max(+0, -0) is -0) or if either is NaN
//   sign(x)    1, -1, +0 for +0 and -0, NaN for NaN
//
// One more operation, for the stage that stores the states:
//
//   flush(x, mask)   x if it has any bit of the mask set, else +0
//
// sqrt, pow, correction and f32 of doubles are for `constants_at`, which computes in double on the host and rounds once
// to float32.
//
// The constants of a step are in upper case, so that constants and lanes can be told apart in an equation. This departs
// from the Google style that .clang-format names.
#pragma once

#include <math.h>

#include "../step.h"

namespace lrcore::rules {

/// A template, because Clang rejects a constexpr function that can never be a constant expression.
template <class Float>
  requires(__is_same(Float, float))
constexpr Float sqrt(Float x) {
  return __builtin_sqrtf(x);
}
constexpr float abs(float x) { return __builtin_fabsf(x); }
constexpr float max(float a, float b) { return a > b ? a : b; }
constexpr float flush(float x, uint32_t mask) { return (__builtin_bit_cast(uint32_t, x) & mask) != 0 ? x : 0.0f; }
constexpr float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? 0.0f : x; }

inline double sqrt(double x) { return ::sqrt(x); }
inline double pow(double base, double exponent) { return ::pow(base, exponent); }
/// Returns 1 - beta^t, by which an average that began at 0 is corrected. The power is slow, and is left out once
/// beta^t < exp(-t (1 - beta)) < exp(-38) < 2^-54, because the result is then 1.
inline double correction(double beta, double t) { return t * (1 - beta) > 38 ? 1 : 1 - pow(beta, t); }
constexpr float f32(double x) { return static_cast<float>(x); }

}  // namespace lrcore::rules
