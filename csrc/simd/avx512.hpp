// Vectors of 16 in one AVX512 register; products of bytes by VNNI, of bf16 by the BF16 extension where it is on.
#pragma once

#include <immintrin.h>

#include "../kernels.hpp"

namespace {

struct Avx512 {
  using F = __m512;
  using I = __m512i;
  static constexpr int ACCUMULATORS = 24;
  static constexpr int ROWS = 8;
  static constexpr int ROWS_INT4 = 6;  // where more than one tile comes: two panels fit, and share what is unpacked
  static constexpr bool OFFSET = true;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F absolute(F a) { return _mm512_abs_ps(a); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F scale_by_power(F a, F n) { return _mm512_scalef_ps(a, n); }
  static float sum(F a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static float largest(F a) { return _mm512_reduce_max_ps(a); }

  static I load_bytes(const void* p) { return _mm512_loadu_si512(p); }
  static I set1_int(int32_t x) { return _mm512_set1_epi32(x); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static F load_bf16(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static void store_bf16(uint16_t* p, F a) {
    const __m512i u = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
  static void store_int8(int8_t* p, F a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
  }

  static F dot_bf16(F acc, I w, I x) {
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
#else
    const I high = _mm512_set1_epi32(int(0xffff0000));
    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
                          _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(w, high)),
                           _mm512_castsi512_ps(_mm512_and_si512(x, high)), acc);
#endif
  }
  static I dot_bytes(I acc, I w, I x) {  // as an instruction: around the intrinsic GCC 12 copies the sums twice
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
    return acc;
  }
  static I low_levels(I a) { return _mm512_shuffle_epi8(levels(), _mm512_and_si512(a, _mm512_set1_epi8(15))); }
  static I high_levels(I a) { return low_levels(_mm512_srli_epi16(a, 4)); }
  // As an instruction: GCC takes a function that only prefetches for one without effect, and drops its calls.
  static void prefetch(const void* p) { __asm__ volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p))); }

 private:
  static I levels() {
    const __m128i signed_levels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(gptwo::LEVELS));
    return _mm512_broadcast_i32x4(_mm_xor_si128(signed_levels, _mm_set1_epi8(char(0x80))));
  }
};

}  // namespace
