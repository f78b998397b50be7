// Thirty-two floats in two AVX-512 registers. The divider computes the roots of one register while products give those
// of the other, so that a rule with roots waits less for the divider.
#pragma once

#include "lane_avx512.h"
#include "lane_avx512_root.h"

namespace lrcore::cpu {
namespace {

struct f32x32 {
  f32x16 low, high;

  f32x32() = default;
  f32x32(f32x16 first, f32x16 second) : low(first), high(second) {}
  f32x32(float all) : low(all), high(all) {}

  friend f32x32 operator+(f32x32 a, f32x32 b) { return {a.low + b.low, a.high + b.high}; }
  friend f32x32 operator-(f32x32 a, f32x32 b) { return {a.low - b.low, a.high - b.high}; }
  friend f32x32 operator*(f32x32 a, f32x32 b) { return {a.low * b.low, a.high * b.high}; }
  friend f32x32 operator/(f32x32 a, f32x32 b) { return {a.low / b.low, a.high / b.high}; }
  friend f32x32 sqrt(f32x32 a) { return {sqrt(a.low), root(a.high.x)}; }
  friend f32x32 abs(f32x32 a) { return {abs(a.low), abs(a.high)}; }
  friend f32x32 max(f32x32 a, f32x32 b) { return {max(a.low, b.low), max(a.high, b.high)}; }
  friend f32x32 flush(f32x32 a, uint32_t mask) { return {flush(a.low, mask), flush(a.high, mask)}; }
  friend f32x32 sign(f32x32 a) { return {sign(a.low), sign(a.high)}; }
};

struct Avx512Pair {
  using Lane = f32x32;
  static constexpr int half = Avx512::width;
  static constexpr int width = 2 * half;

  static f32x32 load(const float* a) { return {Avx512::load(a), Avx512::load(a + half)}; }
  static void store(float* a, f32x32 lane) {
    Avx512::store(a, lane.low);
    Avx512::store(a + half, lane.high);
  }

  /// The masks of the first `count` elements in each register.
  struct Masks {
    __mmask16 low, high;

    explicit Masks(int count)
        : low(static_cast<__mmask16>((1u << count) - 1u)), high(static_cast<__mmask16>(((1u << count) - 1u) >> half)) {}
  };
  static f32x32 load(const float* a, int count) {
    const Masks masks(count);
    return {_mm512_maskz_loadu_ps(masks.low, a), _mm512_maskz_loadu_ps(masks.high, a + half)};
  }
  static void store(float* a, f32x32 lane, int count) {
    const Masks masks(count);
    _mm512_mask_storeu_ps(a, masks.low, lane.low.x);
    _mm512_mask_storeu_ps(a + half, masks.high, lane.high.x);
  }
};

}  // namespace
}  // namespace lrcore::cpu
