// Sixteen floats in an AVX-512 register; partial accesses use a mask. Requires only AVX-512F.
#pragma once

#include <immintrin.h>

namespace lrcore::cpu {
namespace {

struct f32x16 {
  __m512 x;

  f32x16() = default;
  f32x16(__m512 lanes) : x(lanes) {}
  f32x16(float all) : x(_mm512_set1_ps(all)) {}

  friend f32x16 operator+(f32x16 a, f32x16 b) { return _mm512_add_ps(a.x, b.x); }
  friend f32x16 operator-(f32x16 a, f32x16 b) { return _mm512_sub_ps(a.x, b.x); }
  friend f32x16 operator*(f32x16 a, f32x16 b) { return _mm512_mul_ps(a.x, b.x); }
  friend f32x16 operator/(f32x16 a, f32x16 b) { return _mm512_div_ps(a.x, b.x); }
  friend f32x16 sqrt(f32x16 a) { return _mm512_sqrt_ps(a.x); }
  friend f32x16 abs(f32x16 a) { return _mm512_abs_ps(a.x); }
  friend f32x16 max(f32x16 a, f32x16 b) { return _mm512_max_ps(a.x, b.x); }
  friend f32x16 flush(f32x16 a, uint32_t mask) {
    const __m512i bits = _mm512_set1_epi32(static_cast<int>(mask));
    return _mm512_maskz_mov_ps(_mm512_test_epi32_mask(_mm512_castps_si512(a.x), bits), a.x);
  }
  friend f32x16 sign(f32x16 a) {
    const __m512 zero = _mm512_setzero_ps();
    const __m512 above = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.x, zero, _CMP_GT_OQ), _mm512_set1_ps(1.0f));
    const __m512 signs = _mm512_mask_mov_ps(above, _mm512_cmp_ps_mask(a.x, zero, _CMP_LT_OQ), _mm512_set1_ps(-1.0f));
    return _mm512_mask_mov_ps(signs, _mm512_cmp_ps_mask(a.x, a.x, _CMP_UNORD_Q), a.x);
  }
};

struct f64x16 {
  __m512d low, high;
};

struct Avx512 {
  using Lane = f32x16;
  using Wide = f64x16;
  static constexpr int width = 16;

  static f32x16 load(const float* a) { return _mm512_loadu_ps(a); }
  static void store(float* a, f32x16 lane) { _mm512_storeu_ps(a, lane.x); }

  static __mmask16 mask(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
  static f32x16 load(const float* a, int count) { return _mm512_maskz_loadu_ps(mask(count), a); }
  static void store(float* a, f32x16 lane, int count) { _mm512_mask_storeu_ps(a, mask(count), lane.x); }

  static f64x16 widen(f32x16 a) {
    const __m512 swapped = _mm512_shuffle_f32x4(a.x, a.x, 0xEE);  // the upper half in the lower
    return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.x)), _mm512_cvtps_pd(_mm512_castps512_ps256(swapped))};
  }
  static f64x16 load_wide(const float* a) {
    return {_mm512_cvtps_pd(_mm256_loadu_ps(a)), _mm512_cvtps_pd(_mm256_loadu_ps(a + 8))};
  }
  static f64x16 load_wide(const float* a, int count) { return widen(load(a, count)); }
  static f64x16 add_product(f64x16 s, f64x16 a, f64x16 b) {
    return {_mm512_fmadd_pd(a.low, b.low, s.low), _mm512_fmadd_pd(a.high, b.high, s.high)};
  }
  static f64x16 load(const double* a) { return {_mm512_loadu_pd(a), _mm512_loadu_pd(a + 8)}; }
  static void store(double* a, f64x16 lane) {
    _mm512_storeu_pd(a, lane.low);
    _mm512_storeu_pd(a + 8, lane.high);
  }
};

}  // namespace
}  // namespace lrcore::cpu
