// Correctly rounded square roots by products, for processors whose divider is slower. The products inside a root are
// fused, but the result is the root that IEEE 754 defines, so its bits do not depend on how it is computed.
#pragma once

#include <immintrin.h>

namespace lrcore::cpu {
namespace {

/// Returns the correctly rounded roots of x, each in [2^-78, inf), from approximations y of 1 / sqrt(x) with a relative
/// error of at most 2^-14. Returns 0 with the sign of x where x is 0 and y is 0. (Markstein 1990: one step of Newton's
/// method for g = sqrt(x) and h = 1 / (2 sqrt(x)), and one for g alone, whose remainder x - g g is exact.) The program
/// tests/rules/roots_avx512.cpp tries every y.
inline __m512 refined_root(__m512 x, __m512 y) {
  const __m512 half = _mm512_set1_ps(0.5f);
  __m512 g = _mm512_mul_ps(x, y);
  __m512 h = _mm512_mul_ps(y, half);
  const __m512 error = _mm512_fnmadd_ps(g, h, half);
  g = _mm512_fmadd_ps(g, error, g);
  h = _mm512_fmadd_ps(h, error, h);
  return _mm512_fmadd_ps(_mm512_fnmadd_ps(g, g, x), h, g);
}

/// Returns the correctly rounded roots of x. The divider computes them if one of the elements is neither 0 nor in
/// [2^-78, inf).
inline __m512 root(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i least = _mm512_set1_epi32((127 - 78) << 23), infinity = _mm512_set1_epi32(255 << 23);
  const __mmask16 is_large = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(bits, least), _mm512_sub_epi32(infinity, least));
  const __mmask16 is_zero = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7FFFFFFF));
  if (_mm512_kortestc(is_large, is_zero)) [[likely]]
    return refined_root(x, _mm512_maskz_rsqrt14_ps(is_large, x));
  return _mm512_sqrt_ps(x);
}

}  // namespace
}  // namespace lrcore::cpu
