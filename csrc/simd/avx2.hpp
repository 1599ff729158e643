// Vectors of 16 in two AVX2 registers; products of bytes by AVX-VNNI where it is on.
#pragma once

#include <immintrin.h>

#include "../kernels.hpp"

namespace {

struct Avx2 {
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };
  static constexpr int ACCUMULATORS = 4;
  static constexpr int ROWS = 4;
  static constexpr int ROWS_INT4 = ROWS;
#ifdef __AVXVNNI__
  static constexpr bool OFFSET = true;
#else
  static constexpr bool OFFSET = false;
#endif

  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F set1(float x) {
    const __m256 y = _mm256_set1_ps(x);
    return {y, y};
  }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F absolute(F x) {
    const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
  }
  static F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static F round(F x) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, nearest), _mm256_round_ps(x.b, nearest)};
  }
  static F scale_by_power(F x, F n) { return {mul(x.a, power(n.a)), mul(x.b, power(n.b))}; }
  static float sum(F x) {
    const __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static float largest(F x) {
    const __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }

  static I load_bytes(const void* p) {
    const __m256i* q = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  static I set1_int(int32_t x) {
    const __m256i y = _mm256_set1_epi32(x);
    return {y, y};
  }
  static F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static F load_bf16(const uint16_t* p) {
    const __m128i* q = reinterpret_cast<const __m128i*>(p);
    return {low(_mm256_cvtepu16_epi32(_mm_loadu_si128(q))), low(_mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1)))};
  }
  static void store_bf16(uint16_t* p, F x) {
    const __m256i packed = _mm256_packus_epi32(rounded(x.a), rounded(x.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  static void store_int8(int8_t* p, F x) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }

  static F dot_bf16(F acc, I w, I x) {
    acc = fma(F{low(w.a), low(w.b)}, F{low(x.a), low(x.b)}, acc);
    return fma(F{high(w.a), high(w.b)}, F{high(x.a), high(x.b)}, acc);
  }
  static I dot_bytes(I acc, I w, I x) { return {dot(acc.a, w.a, x.a), dot(acc.b, w.b, x.b)}; }
  static I low_levels(I x) { return {levels_of(x.a), levels_of(x.b)}; }
  static I high_levels(I x) { return {levels_of(_mm256_srli_epi16(x.a, 4)), levels_of(_mm256_srli_epi16(x.b, 4))}; }
  // As an instruction: GCC takes a function that only prefetches for one without effect, and drops its calls.
  static void prefetch(const void* p) { __asm__ volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p))); }

 private:
  static __m256 mul(__m256 x, __m256 y) { return _mm256_mul_ps(x, y); }
  static __m256 power(__m256 n) {  // 2^n through the exponent's bits
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_castsi256_ps(bits);
  }
  static __m256 low(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
  static __m256 high(__m256i x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int(0xffff0000))));
  }
  static __m256i rounded(__m256 x) {
    const __m256i u = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  }
  static __m256i dot(__m256i acc, __m256i w, __m256i x) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(acc, w, x);
#else
    w = _mm256_xor_si256(w, _mm256_set1_epi8(char(0x80)));
    // |w| * (x with w's sign): both at most 127, so that the sum of two products does not saturate
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
  }
  static __m256i levels_of(__m256i nibbles) {
    const __m128i signed_levels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(gptwo::LEVELS));
    const __m256i table = _mm256_broadcastsi128_si256(_mm_xor_si128(signed_levels, _mm_set1_epi8(char(0x80))));
    return _mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, _mm256_set1_epi8(15)));
  }
};

}  // namespace
