// Vectors of 16 in four NEON registers; products of bytes by the extensions DotProd and I8MM, of bf16 by BF16, where
// they are on.
#pragma once

#include <arm_neon.h>

#include "../kernels.hpp"

namespace {

struct Neon {
  struct F {
    float32x4_t a, b, c, d;
  };
  struct I {
    int32x4_t a, b, c, d;
  };
  static constexpr int ACCUMULATORS = 4;  // half of the 32 registers; weights and factors take the rest
  static constexpr int ROWS = 4;
  static constexpr int ROWS_INT4 = ROWS;
#ifdef __ARM_FEATURE_MATMUL_INT8
  static constexpr bool OFFSET = true;
#else
  static constexpr bool OFFSET = false;
#endif

  static F zero() { return set1(0.0f); }
  static F set1(float x) {
    const float32x4_t y = vdupq_n_f32(x);
    return {y, y, y, y};
  }
  static F load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
  static void store(float* p, F x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
  }
  static F add(F x, F y) {
    return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
  }
  static F sub(F x, F y) {
    return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
  }
  static F mul(F x, F y) {
    return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
  }
  static F div(F x, F y) {
    return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
  }
  static F max(F x, F y) {
    return {vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b), vmaxq_f32(x.c, y.c), vmaxq_f32(x.d, y.d)};
  }
  static F min(F x, F y) {
    return {vminq_f32(x.a, y.a), vminq_f32(x.b, y.b), vminq_f32(x.c, y.c), vminq_f32(x.d, y.d)};
  }
  static F absolute(F x) { return {vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)}; }
  static F fma(F x, F y, F z) {
    return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
  }
  static F round(F x) { return {vrndnq_f32(x.a), vrndnq_f32(x.b), vrndnq_f32(x.c), vrndnq_f32(x.d)}; }
  static F scale_by_power(F x, F n) { return mul(x, {power(n.a), power(n.b), power(n.c), power(n.d)}); }
  static float sum(F x) {
    const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  static float largest(F x) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.c), vmaxq_f32(x.b, x.d))); }

  static I load_bytes(const void* p) {
    const int8_t* q = static_cast<const int8_t*>(p);
    return {words(vld1q_s8(q)), words(vld1q_s8(q + 16)), words(vld1q_s8(q + 32)), words(vld1q_s8(q + 48))};
  }
  static I set1_int(int32_t x) {
    const int32x4_t y = vdupq_n_s32(x);
    return {y, y, y, y};
  }
  static F to_float(I x) { return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)}; }
  static F load_bf16(const uint16_t* p) {
    return {widen(vld1_u16(p)), widen(vld1_u16(p + 4)), widen(vld1_u16(p + 8)), widen(vld1_u16(p + 12))};
  }
  static void store_bf16(uint16_t* p, F x) {
    vst1_u16(p, rounded(x.a));
    vst1_u16(p + 4, rounded(x.b));
    vst1_u16(p + 8, rounded(x.c));
    vst1_u16(p + 12, rounded(x.d));
  }
  static void store_int8(int8_t* p, F x) {
    vst1_s8(p, vqmovn_s16(vcombine_s16(narrow(x.a), narrow(x.b))));
    vst1_s8(p + 8, vqmovn_s16(vcombine_s16(narrow(x.c), narrow(x.d))));
  }

  static F dot_bf16(F acc, I w, I x) {
    return {dot(acc.a, w.a, x.a), dot(acc.b, w.b, x.b), dot(acc.c, w.c, x.c), dot(acc.d, w.d, x.d)};
  }
  static I dot_bytes(I acc, I w, I x) {
    return {dot(acc.a, w.a, x.a), dot(acc.b, w.b, x.b), dot(acc.c, w.c, x.c), dot(acc.d, w.d, x.d)};
  }
  static I low_levels(I x) {
    const uint8x16_t mask = vdupq_n_u8(15);
    return {level(vandq_u8(bytes(x.a), mask)), level(vandq_u8(bytes(x.b), mask)), level(vandq_u8(bytes(x.c), mask)),
            level(vandq_u8(bytes(x.d), mask))};
  }
  static I high_levels(I x) {
    return {level(vshrq_n_u8(bytes(x.a), 4)), level(vshrq_n_u8(bytes(x.b), 4)), level(vshrq_n_u8(bytes(x.c), 4)),
            level(vshrq_n_u8(bytes(x.d), 4))};
  }
  // As an instruction: GCC takes a function that only prefetches for one without effect, and drops its calls.
  static void prefetch(const void* p) { __asm__ volatile("prfm pldl2keep, [%0]" : : "r"(p)); }

 private:
  static int32x4_t words(int8x16_t x) { return vreinterpretq_s32_s8(x); }
  static uint8x16_t bytes(int32x4_t x) { return vreinterpretq_u8_s32(x); }
  static float32x4_t power(float32x4_t n) {  // 2^n through the exponent's bits
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
  }
  static float32x4_t widen(uint16x4_t x) { return vreinterpretq_f32_u32(vshll_n_u16(x, 16)); }
  static uint16x4_t rounded(float32x4_t x) {
    const uint32x4_t u = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    return vshrn_n_u32(vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd), 16);
  }
  static int16x4_t narrow(float32x4_t x) { return vqmovn_s32(vcvtq_s32_f32(x)); }

  static float32x4_t dot(float32x4_t acc, int32x4_t w, int32x4_t x) {  // two bf16 of each word
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    return vbfdotq_f32(acc, vreinterpretq_bf16_s32(w), vreinterpretq_bf16_s32(x));
#else
    const int32x4_t high = vdupq_n_s32(int32_t(0xffff0000));
    acc = vfmaq_f32(acc, vreinterpretq_f32_s32(vshlq_n_s32(w, 16)), vreinterpretq_f32_s32(vshlq_n_s32(x, 16)));
    return vfmaq_f32(acc, vreinterpretq_f32_s32(vandq_s32(w, high)), vreinterpretq_f32_s32(vandq_s32(x, high)));
#endif
  }
  static int32x4_t dot(int32x4_t acc, int32x4_t w, int32x4_t x) {  // four bytes of each word
    const int8x16_t input = vreinterpretq_s8_s32(x);
#ifdef __ARM_FEATURE_MATMUL_INT8
    return vusdotq_s32(acc, bytes(w), input);
#else
    const int8x16_t weight = vreinterpretq_s8_u8(veorq_u8(bytes(w), vdupq_n_u8(0x80)));
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(acc, weight, input);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(weight), vget_low_s8(input)), high = vmull_high_s8(weight, input);
    return vpadalq_s16(acc, vpaddq_s16(low, high));  // both at most 127: the sum of two products fits
#endif
#endif
  }
  static int32x4_t level(uint8x16_t nibbles) {
    const uint8x16_t levels = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(gptwo::LEVELS)), vdupq_n_u8(0x80));
    return vreinterpretq_s32_u8(vqtbl1q_u8(levels, nibbles));
  }
};

}  // namespace
