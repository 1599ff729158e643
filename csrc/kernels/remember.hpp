// How a token's key and value come into a block of the cache; its layout is in kernels.hpp.
#pragma once

#include <cstring>

#include "product.hpp"

namespace {

inline uint16_t bf16_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// D numbers to signed bytes, the largest magnitude to 127, handed on 16 at a time (zeros behind the last); returns the
// scale.
template <class V, class Put>
inline float to_bytes(const float* numbers, int D, Put put) {
  const auto load = [&](int d) {
    float part[16] = {};
    if (d + 16 <= D) return V::load(numbers + d);
    std::memcpy(part, numbers + d, size_t(D - d) * 4);
    return V::load(part);
  };
  auto top = V::zero();
  for (int d = 0; d < D; d += 16) top = V::max(top, V::absolute(load(d)));
  const float most = V::largest(top);
  const auto factor = V::set1(most > 0 ? 127.0f / most : 0.0f);
  for (int d = 0; d < D; d += 16) {
    int8_t bytes[16];
    V::store_int8(bytes, V::round(V::mul(load(d), factor)));
    put(d, bytes);
  }
  return most / 127.0f;
}

template <class V>
void remember_bytes(char* block, int slot, const float* key, const float* value, int D) {
  const int words = (D + 3) / 4, wide = gptwo::round_up(D, 16);
  char* keys = block + slot / 16 * words * 64 + slot % 16 * 4;
  char* values = block + gptwo::keys_bytes(D, gptwo::Precision::int8) + slot / 4 * wide * 4 + slot % 4;
  float* scales = reinterpret_cast<float*>(block + gptwo::scales_at(D, gptwo::Precision::int8));
  scales[slot] = to_bytes<V>(key, D, [&](int d, const int8_t* bytes) {
    for (int i = 0; i < 4 && d / 4 + i < words; ++i) {
      const int32_t four = word_at(reinterpret_cast<const char*>(bytes) + 4 * i) ^ int32_t(0x80808080);
      std::memcpy(keys + 64 * (d / 4 + i), &four, 4);
    }
  });
  scales[gptwo::PAGE + slot] = to_bytes<V>(value, D, [&](int d, const int8_t* bytes) {
    for (int i = 0; i < 16; ++i) values[4 * (d + i)] = char(uint8_t(bytes[i]) ^ 0x80);
  });
}

template <class V>
void remember(char* block, int slot, const float* key, const float* value, int D, gptwo::Precision cache) {
  if (cache == gptwo::Precision::int8) return remember_bytes<V>(block, slot, key, value, D);
  const int even = gptwo::round_up(D, 2), wide = gptwo::round_up(D, 16);
  char* values = block + gptwo::keys_bytes(D, cache);
  const int tile = slot / 16, lane = slot % 16;
  if (cache == gptwo::Precision::bf16) {
    uint16_t* k = reinterpret_cast<uint16_t*>(block) + tile * even * 16;
    uint16_t* v = reinterpret_cast<uint16_t*>(values) + slot / 2 * wide * 2 + slot % 2;
    for (int d = 0; d < D; ++d) {
      k[d / 2 * 32 + lane * 2 + d % 2] = bf16_of(key[d]);
      v[2 * d] = bf16_of(value[d]);
    }
  } else {
    float* k = reinterpret_cast<float*>(block) + tile * D * 16;
    float* v = reinterpret_cast<float*>(values) + slot * wide;
    for (int d = 0; d < D; ++d) {
      k[d * 16 + lane] = key[d];
      v[d] = value[d];
    }
  }
}

}  // namespace
