// Eight floats in an AVX register; partial accesses use AVX's masked moves.
#pragma once

#include <immintrin.h>

namespace lrcore::cpu {
namespace {

struct f32x8 {
  __m256 x;

  f32x8() = default;
  f32x8(__m256 lanes) : x(lanes) {}
  f32x8(float all) : x(_mm256_set1_ps(all)) {}

  friend f32x8 operator+(f32x8 a, f32x8 b) { return _mm256_add_ps(a.x, b.x); }
  friend f32x8 operator-(f32x8 a, f32x8 b) { return _mm256_sub_ps(a.x, b.x); }
  friend f32x8 operator*(f32x8 a, f32x8 b) { return _mm256_mul_ps(a.x, b.x); }
  friend f32x8 operator/(f32x8 a, f32x8 b) { return _mm256_div_ps(a.x, b.x); }
  friend f32x8 sqrt(f32x8 a) { return _mm256_sqrt_ps(a.x); }
  friend f32x8 abs(f32x8 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.x); }
  friend f32x8 max(f32x8 a, f32x8 b) { return _mm256_max_ps(a.x, b.x); }
  friend f32x8 flush(f32x8 a, uint32_t mask) {
    const __m256i bits = _mm256_and_si256(_mm256_castps_si256(a.x), _mm256_set1_epi32(static_cast<int>(mask)));
    return _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, _mm256_setzero_si256())), a.x);
  }
  friend f32x8 sign(f32x8 a) {
    const __m256 zero = _mm256_setzero_ps();
    const __m256 above = _mm256_and_ps(_mm256_cmp_ps(a.x, zero, _CMP_GT_OQ), _mm256_set1_ps(1.0f));
    const __m256 below = _mm256_and_ps(_mm256_cmp_ps(a.x, zero, _CMP_LT_OQ), _mm256_set1_ps(-1.0f));
    const __m256 nan = _mm256_and_ps(_mm256_cmp_ps(a.x, a.x, _CMP_UNORD_Q), a.x);
    return _mm256_or_ps(nan, _mm256_or_ps(above, below));
  }
};

struct f64x8 {
  __m256d low, high;
};

struct Avx2 {
  using Lane = f32x8;
  using Wide = f64x8;
  static constexpr int width = 8;

  static f32x8 load(const float* a) { return _mm256_loadu_ps(a); }
  static void store(float* a, f32x8 lane) { _mm256_storeu_ps(a, lane.x); }

  static __m256i mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static f32x8 load(const float* a, int count) { return _mm256_maskload_ps(a, mask(count)); }
  static void store(float* a, f32x8 lane, int count) { _mm256_maskstore_ps(a, mask(count), lane.x); }

  static f64x8 widen(f32x8 a) {
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.x)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.x, 1))};
  }
  static f64x8 load_wide(const float* a) {
    return {_mm256_cvtps_pd(_mm_loadu_ps(a)), _mm256_cvtps_pd(_mm_loadu_ps(a + 4))};
  }
  static f64x8 load_wide(const float* a, int count) { return widen(load(a, count)); }
  static f64x8 add_product(f64x8 s, f64x8 a, f64x8 b) {
    return {_mm256_fmadd_pd(a.low, b.low, s.low), _mm256_fmadd_pd(a.high, b.high, s.high)};
  }
  static f64x8 load(const double* a) { return {_mm256_loadu_pd(a), _mm256_loadu_pd(a + 4)}; }
  static void store(double* a, f64x8 lane) {
    _mm256_storeu_pd(a, lane.low);
    _mm256_storeu_pd(a + 4, lane.high);
  }
};

}  // namespace
}  // namespace lrcore::cpu
