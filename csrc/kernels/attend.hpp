// Attention of one head over the pages of one sequence, and how keys and values lie in a page (see kernels.hpp).
//
// Keys are read in ascending order, 16 side by side; values two by two in bf16, one by one in float32. A query's
// numbers therefore do not depend on the queries beside it or on how the prompt was cut into chunks.
#pragma once

#include <cstring>

#include "math.hpp"
#include "product.hpp"

namespace {

inline uint16_t bf16_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

template <class V>
void remember(char* block, int slot, const float* key, const float* value, int D, bool half) {
  const int even = gptwo::round_up(D, 2), wide = gptwo::round_up(D, 16);
  char* values = block + gptwo::keys_bytes(D, half);
  const int tile = slot / 16, lane = slot % 16;
  if (half) {
    uint16_t* k = reinterpret_cast<uint16_t*>(block) + tile * even * 16;
    uint16_t* v = reinterpret_cast<uint16_t*>(values) + slot / 2 * wide * 2 + slot % 2;
    for (int d = 0; d < D; ++d) {
      k[d / 2 * 32 + lane * 2 + d % 2] = bf16_of(key[d]);
      v[2 * d] = bf16_of(value[d]);
    }
  } else {
    float* k = reinterpret_cast<float*>(block) + tile * even * 16;
    float* v = reinterpret_cast<float*>(values) + slot * wide;
    for (int d = 0; d < D; ++d) {
      k[d * 16 + lane] = key[d];
      v[d] = value[d];
    }
  }
}

template <class V, bool HALF, int N>  // N queries together
struct Queries {
  using F = typename V::F;
  const gptwo::Attention& a;
  const int first;       // of a.count
  const int seen;        // keys that the last query sees
  const int rounded;     // to whole tiles of 16
  float* scores;         // (N, rounded)
  char* queries;         // (N, D) float32, or (N, D/2) pairs of bf16
  static constexpr int STEP = HALF ? 2 : 1;  // numbers of a query in four bytes

  Queries(const gptwo::Attention& a, int first)
      : a(a), first(first), seen(a.position + first + N), rounded(gptwo::round_up(seen, 16)), scores(a.scratch),
        queries(reinterpret_cast<char*>(a.scratch + size_t(N) * rounded)) {
    const int words = (a.D + STEP - 1) / STEP;
    UNROLL for (int n = 0; n < N; ++n) {
      const float* query = a.query + size_t(first + n) * a.query_stride;
      char* place = queries + size_t(n) * words * 4;
      if constexpr (HALF)
        for (int d = 0; d < 2 * words; ++d) {
          const uint16_t x = d < a.D ? bf16_of(query[d]) : 0;
          std::memcpy(place + 2 * d, &x, 2);
        }
      else
        std::memcpy(place, query, size_t(words) * 4);
    }
    score(words);
    UNROLL for (int n = 0; n < N; ++n) soften(n);
    float factors[N];
    UNROLL for (int n = 0; n < N; ++n) factors[n] = weigh(n);
    for (int d = 0; d < a.D; d += 64) mix(d, factors);
  }

  const char* block(int token) const { return a.pages[token / gptwo::PAGE] + a.offset; }

  void score(int words) {
    const size_t tile_bytes = size_t(words) * 64;
    for (int s = 0; s < rounded; s += 16) {
      const char* keys = block(s) + s % gptwo::PAGE / 16 * tile_bytes;
      F sum[N];
      UNROLL for (int n = 0; n < N; ++n) sum[n] = V::zero();
      for (int d = 0; d < words; ++d) {
        if constexpr (HALF) {
          const auto key = V::load_bytes(keys + 64 * d);
          UNROLL for (int n = 0; n < N; ++n)
            sum[n] = V::dot_bf16(sum[n], key, V::set1_int(word_at(queries + 4 * (n * words + d))));
        } else {
          const F key = V::load(reinterpret_cast<const float*>(keys + 64 * d));
          UNROLL for (int n = 0; n < N; ++n)
            sum[n] = V::fma(key, V::set1(reinterpret_cast<const float*>(queries)[n * words + d]), sum[n]);
        }
      }
      UNROLL for (int n = 0; n < N; ++n) V::store(scores + size_t(n) * rounded + s, V::mul(sum[n], V::set1(a.scale)));
    }
  }

  // Scores of query n to exp(score - largest), 0 where it does not see.
  void soften(int n) {
    float* line = scores + size_t(n) * rounded;
    const int own = a.position + first + n + 1;
    for (int s = own; s < rounded; ++s) line[s] = -3.0e38f;
    F top = V::load(line);
    for (int s = 16; s < rounded; s += 16) top = V::max(top, V::load(line + s));
    const F most = V::set1(V::largest(top));
    for (int s = 0; s < own; s += 16) V::store(line + s, exponential<V>(V::sub(V::load(line + s), most)));
    for (int s = own; s < rounded; ++s) line[s] = 0.0f;
  }

  // 1 / the sum of a query's weights.
  float weigh(int n) {
    float* line = scores + size_t(n) * rounded;
    const int own = gptwo::round_up(a.position + first + n + 1, 16);  // not more, so that the order is its own
    F total = V::zero();
    for (int s = 0; s < own; s += 16) total = V::add(total, V::load(line + s));
    if constexpr (HALF)  // from here on two bf16 weights in four bytes
      for (int s = 0; s < rounded; s += 16) V::store_bf16(reinterpret_cast<uint16_t*>(line) + s, V::load(line + s));
    return 1.0f / V::sum(total);
  }

  // Weighted sum of the values, 64 of their numbers at a time.
  void mix(int d, const float (&factors)[N]) {
    const int wide = gptwo::round_up(a.D, 16);
    const int parts = (wide - d < 64 ? wide - d : 64) / 16;
    F sum[N][4];
    UNROLL for (int n = 0; n < N; ++n)
      UNROLL for (int i = 0; i < 4; ++i) sum[n][i] = V::zero();
    if (parts == 4) {
      gather<4>(d, wide, sum);
    } else {
      for (int i = 0; i < parts; ++i) {
        F part[N][1];
        UNROLL for (int n = 0; n < N; ++n) part[n][0] = V::zero();
        gather<1>(d + 16 * i, wide, part);
        UNROLL for (int n = 0; n < N; ++n) sum[n][i] = part[n][0];
      }
    }
    UNROLL for (int n = 0; n < N; ++n)
      for (int i = 0; i < parts; ++i) {
        const F value = V::mul(sum[n][i], V::set1(factors[n]));
        float* out = a.out + size_t(first + n) * a.out_stride + d + 16 * i;
        if (d + 16 * i + 16 <= a.D) {
          V::store(out, value);
        } else {
          float rest[16];
          V::store(rest, value);
          std::memcpy(out, rest, size_t(a.D - d - 16 * i) * 4);
        }
      }
  }

  template <int PARTS>
  void gather(int d, int wide, F (&sum)[N][PARTS]) {
    const size_t keys = gptwo::keys_bytes(a.D, HALF);
    for (int s = 0; s < seen; s += STEP) {
      const char* row = block(s) + keys + (size_t(s % gptwo::PAGE / STEP) * wide + d) * 4;
      UNROLL for (int n = 0; n < N; ++n) {
        const char* line = reinterpret_cast<const char*>(scores + size_t(n) * rounded);
        UNROLL for (int i = 0; i < PARTS; ++i) {
          if constexpr (HALF)
            sum[n][i] = V::dot_bf16(sum[n][i], V::load_bytes(row + 64 * i), V::set1_int(word_at(line + 2 * s)));
          else
            sum[n][i] = V::fma(V::load(reinterpret_cast<const float*>(row + 64 * i)),
                               V::set1(reinterpret_cast<const float*>(line)[s]), sum[n][i]);
        }
      }
    }
  }
};

template <class V, bool HALF>
void attend_in(const gptwo::Attention& a) {
  int first = 0;
  for (; first + gptwo::QUERIES <= a.count; first += gptwo::QUERIES) Queries<V, HALF, gptwo::QUERIES>(a, first);
  for (; first < a.count; ++first) Queries<V, HALF, 1>(a, first);
}

template <class V>
void attend(const gptwo::Attention& a) {
  a.half ? attend_in<V, true>(a) : attend_in<V, false>(a);
}

}  // namespace
