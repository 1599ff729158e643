// Vectors of 16 in plain C++: the reference that every instruction set is tested against.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../kernels.hpp"

namespace {

struct Plain {
  struct F {
    float v[16];
  };
  struct I {  // 64 bytes: 16 int32, 32 bf16 or 64 int8
    uint8_t b[64];
  };
  static constexpr int ACCUMULATORS = 4;  // of 16 lanes, that stay in registers
  static constexpr int ROWS = 2;          // rows of a tile at most
  static constexpr int ROWS_INT4 = ROWS;
  static constexpr bool OFFSET = false;   // dot_bytes takes weights + 128 as they are, the caller subtracts 128 * sum

  static F zero() { return F{}; }
  static F set1(float x) {
    F r;
    for (float& y : r.v) y = x;
    return r;
  }
  static F load(const float* p) {
    F r;
    std::memcpy(&r, p, 64);
    return r;
  }
  static void store(float* p, F a) { std::memcpy(p, &a, 64); }
  template <class Op>
  static F map(F a, F b, Op op) {
    for (int i = 0; i < 16; ++i) a.v[i] = op(a.v[i], b.v[i]);
    return a;
  }
  static F add(F a, F b) { return map(a, b, [](float x, float y) { return x + y; }); }
  static F sub(F a, F b) { return map(a, b, [](float x, float y) { return x - y; }); }
  static F mul(F a, F b) { return map(a, b, [](float x, float y) { return x * y; }); }
  static F div(F a, F b) { return map(a, b, [](float x, float y) { return x / y; }); }
  static F max(F a, F b) { return map(a, b, [](float x, float y) { return x > y ? x : y; }); }
  static F min(F a, F b) { return map(a, b, [](float x, float y) { return x < y ? x : y; }); }
  static F absolute(F a) {
    for (float& x : a.v) x = std::fabs(x);
    return a;
  }
  static F fma(F a, F b, F c) { return add(mul(a, b), c); }
  static F round(F a) {
    for (float& x : a.v) x = std::nearbyint(x);
    return a;
  }
  static F scale_by_power(F a, F n) {  // a * 2^n, n whole in -126..127
    for (int i = 0; i < 16; ++i) a.v[i] = std::ldexp(a.v[i], int(n.v[i]));
    return a;
  }
  static float sum(F a) {  // pairs at distance 8, 4, 2, 1: the order that vector registers have
    for (int half = 8; half; half /= 2)
      for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    return a.v[0];
  }
  static float largest(F a) {
    float top = a.v[0];
    for (float x : a.v) top = x > top ? x : top;
    return top;
  }

  static I load_bytes(const void* p) {
    I r;
    std::memcpy(&r, p, 64);
    return r;
  }
  static I set1_int(int32_t x) {
    I r;
    for (int i = 0; i < 16; ++i) std::memcpy(r.b + 4 * i, &x, 4);
    return r;
  }
  static F to_float(I a) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = float(word(a, i));
    return r;
  }
  static F load_bf16(const uint16_t* p) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = widen(p[i]);
    return r;
  }
  static void store_bf16(uint16_t* p, F a) {  // to nearest, ties to even
    for (int i = 0; i < 16; ++i) {
      uint32_t u;
      std::memcpy(&u, &a.v[i], 4);
      p[i] = uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
    }
  }
  static void store_int8(int8_t* p, F a) {  // whole numbers in -127..127
    for (int i = 0; i < 16; ++i) p[i] = int8_t(a.v[i]);
  }

  // acc[i] += w[2i] x[2i] + w[2i+1] x[2i+1] over bf16
  static F dot_bf16(F acc, I w, I x) {
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 2; ++j) acc.v[i] += half(w, 2 * i + j) * half(x, 2 * i + j);
    return acc;
  }
  // acc[i] += sum of w[4i + j] x[4i + j]; w holds weight + 128, x signed bytes
  static I dot_bytes(I acc, I w, I x) {
    for (int i = 0; i < 16; ++i) {
      int32_t total = word(acc, i);
      for (int j = 0; j < 4; ++j) total += (int(w.b[4 * i + j]) - 128) * int(int8_t(x.b[4 * i + j]));
      std::memcpy(acc.b + 4 * i, &total, 4);
    }
    return acc;
  }
  static I low_levels(I a) {  // the levels + 128 of the low four bits of each byte
    for (uint8_t& byte : a.b) byte = uint8_t(gptwo::LEVELS[byte & 15] + 128);
    return a;
  }
  static I high_levels(I a) {
    for (uint8_t& byte : a.b) byte = uint8_t(gptwo::LEVELS[byte >> 4] + 128);
    return a;
  }
  static void prefetch(const void*) {}

 private:
  static int32_t word(const I& a, int i) {
    int32_t x;
    std::memcpy(&x, a.b + 4 * i, 4);
    return x;
  }
  static float widen(uint16_t x) {
    uint32_t u = uint32_t(x) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
  static float half(const I& a, int i) {
    uint16_t x;
    std::memcpy(&x, a.b + 2 * i, 2);
    return widen(x);
  }
};

}  // namespace
