// Compares roots by products with the processor's roots: of every float, and from every approximation that an
// instruction within the definition of VRSQRT14PS could return. Prints what it has tried; exits with 1 if a root
// differs.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "../../csrc/cpu/lane_avx512_root.h"

namespace {

using lrcore::cpu::refined_root;
using lrcore::cpu::root;

int64_t tried = 0, wrong = 0;

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// Compares sixteen roots. All NaN count as equal.
void compare(const char* what, __m512 x, __m512 found) {
  const __m512 expected = _mm512_sqrt_ps(x);
  const __mmask16 same = _mm512_cmpeq_epi32_mask(_mm512_castps_si512(found), _mm512_castps_si512(expected));
  const __mmask16 nan =
      _mm512_cmp_ps_mask(expected, expected, _CMP_UNORD_Q) & _mm512_cmp_ps_mask(found, found, _CMP_UNORD_Q);
  tried += 16;
  const unsigned differ = 0xFFFFu & ~static_cast<unsigned>(same | nan);
  if (differ == 0) return;
  if (wrong == 0) {
    alignas(64) float values[16];
    _mm512_store_ps(values, x);
    std::printf("%s: the root of %a is wrong\n", what, static_cast<double>(values[__builtin_ctz(differ)]));
  }
  wrong += __builtin_popcount(differ);
}

/// Every float, in lanes of neighbours: nearly all lanes are then computed in one way.
void compare_neighbours() {
  const __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 16) {
    const __m512 x = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(bits)), steps));
    compare("neighbours", x, root(x));
  }
}

/// Every float, in lanes of distant ones, of which some are replaced by a zero: either way is taken for all exponents.
void compare_distant() {
  const __m512i steps = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                           _mm512_set1_epi32(1 << 28));
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  for (uint32_t bits = 0; bits < uint32_t{1} << 28; ++bits) {
    const __m512 x = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(bits)), steps));
    compare("distant", x, root(x));
    // Without the negative and the smallest floats, all lanes can be computed by products.
    const __mmask16 large = _mm512_cmp_ps_mask(x, _mm512_set1_ps(0x1p-78f), _CMP_GE_OQ);
    const __m512 zeros = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), sign));
    const __m512 mixed = _mm512_mask_mov_ps(zeros, large, x);
    compare("distant, with zeros", mixed, root(mixed));
  }
}

/// Special values in each element, among ordinary ones.
void compare_specials() {
  const uint32_t least = (127 - 78) << 23;
  for (const uint32_t bits : {0u, 1u, 0x007FFFFFu, 0x00800000u, least - 1, least, least + 1, 0x7F7FFFFFu, 0x7F800000u,
                              0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu})
    for (const uint32_t sign : {0u, 0x80000000u})
      for (int element = 0; element < 16; ++element) {
        const auto at = static_cast<__mmask16>(1u << element);
        const __m512 x = _mm512_mask_mov_ps(_mm512_set1_ps(2.0f), at, _mm512_set1_ps(from_bits(bits | sign)));
        compare("specials", x, root(x));
      }
}

/// For each mantissa and parity of the exponent, every approximation within 2^-14. The range of `refined_root` is such
/// that nothing over- or underflows, so other exponents give the same mantissas.
void compare_approximations() {
  for (uint32_t bits = 127u << 23; bits < 129u << 23; ++bits) {
    const float x = from_bits(bits);
    const double exact = 1 / std::sqrt(static_cast<double>(x));
    const auto least = static_cast<float>(exact * (1 - 0x1p-14)), largest = static_cast<float>(exact * (1 + 0x1p-14));
    uint32_t first, last;
    std::memcpy(&first, &least, sizeof first);
    std::memcpy(&last, &largest, sizeof last);
    const __m512 lanes = _mm512_set1_ps(x);
    const __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (uint32_t y = first; y <= last; y += 16) {
      const __m512i every = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(y)), steps);
      const __m512i inside = _mm512_min_epu32(every, _mm512_set1_epi32(static_cast<int>(last)));
      compare("approximations", lanes, refined_root(lanes, _mm512_castsi512_ps(inside)));
    }
  }
}

}  // namespace

int main() {
  compare_specials();
  compare_neighbours();
  compare_distant();
  const int64_t roots = tried;
  compare_approximations();
  std::printf("%lld roots, %lld approximations, %lld wrong\n", static_cast<long long>(roots),
              static_cast<long long>(tried - roots), static_cast<long long>(wrong));
  return wrong == 0 ? 0 : 1;
}
