// Attention of one head over the pages of one sequence (Vaswani et al. 2017); how they lie is in kernels.hpp.
//
// Keys are read in ascending order, 16 side by side; values as many at a time as stand in four bytes. A query's numbers
// therefore do not depend on the queries beside it or on how the prompt was cut into chunks.
//
// Over an int8 cache queries and softened scores are split into two bytes, x = scale (high + low / 254), so that only
// keys and values are rounded to eight bits.
#pragma once

#include <cmath>
#include <cstring>

#include "remember.hpp"

namespace {

using gptwo::PAGE;

constexpr int AHEAD_PAGES = 3;  // a page's keys or values are asked for so many pages before their use

template <class V, gptwo::Precision CACHE, int N>  // N queries together
struct Queries {
  using F = typename V::F;
  using I = typename V::I;
  static constexpr bool BYTES = CACHE == gptwo::Precision::int8;
  static constexpr int WORD = gptwo::per_word(CACHE);      // numbers in four bytes
  static constexpr int FIT = V::ACCUMULATORS / N;
  // Vectors of a value that are summed up together, of floats no more than stay in registers.
  static constexpr int PARTS = BYTES ? (N > 1 ? 2 : 4) : FIT >= 4 ? 4 : FIT >= 2 ? 2 : 1;
  static constexpr float LOW = 1.0f / 254.0f;

  const gptwo::Attention& a;
  const int first;    // of a.count
  const int seen;     // keys that the last query sees
  const int rounded;  // to whole tiles of 16
  const int words;    // of four bytes in a key
  float* scores;      // (N, rounded); in the end the weights of the values, in the form that products take
  char* queries;      // (N, words), int8 (N, 2, words)
  float scales[N];    // int8: of the queries, then of the weights
  int32_t starts[N][2] = {};  // int8: where sums of products with bytes + 128 begin

  Queries(const gptwo::Attention& a, int first)
      : a(a), first(first), seen(a.position + first + N), rounded(gptwo::round_up(seen, 16)),
        words((a.D + WORD - 1) / WORD), scores(a.scratch),
        queries(reinterpret_cast<char*>(a.scratch + size_t(N) * rounded)) {
    UNROLL for (int n = 0; n < N; ++n) take_query(n);
    score();
    float factors[N];
    UNROLL for (int n = 0; n < N; ++n) factors[n] = soften(n);
    const int wide = gptwo::round_up(a.D, 16);
    int d = 0;
    for (; d + 16 * PARTS <= wide; d += 16 * PARTS) mix<PARTS>(d, wide, factors);
    for (; d < wide; d += 16) mix<1>(d, wide, factors);
  }

  const char* block(int token) const { return a.pages[token / PAGE] + a.offset; }

  void take_query(int n) {
    const float* query = a.query + size_t(first + n) * a.query_stride;
    char* place = queries + size_t(n) * words * 4 * (BYTES ? 2 : 1);
    if constexpr (CACHE == gptwo::Precision::fp32) {
      std::memcpy(place, query, size_t(words) * 4);
    } else if constexpr (CACHE == gptwo::Precision::bf16) {
      for (int d = 0; d < 2 * words; ++d) {
        const uint16_t x = d < a.D ? bf16_of(query[d]) : 0;
        std::memcpy(place + 2 * d, &x, 2);
      }
    } else {
      int8_t* high = reinterpret_cast<int8_t*>(place);
      int8_t* low = high + size_t(words) * 4;
      const auto load = [&](int d) {
        float part[16] = {};
        if (d + 16 <= a.D) return V::load(query + d);
        std::memcpy(part, query + d, size_t(a.D - d) * 4);
        return V::load(part);
      };
      F top = V::zero();
      for (int d = 0; d < a.D; d += 16) top = V::max(top, V::absolute(load(d)));
      const float most = V::largest(top);
      scales[n] = most / 127.0f;
      const F factor = V::set1(most > 0 ? 127.0f / most : 0.0f);
      F sums[2] = {V::zero(), V::zero()};
      for (int d = 0; d < a.D; d += 16) {
        int8_t bytes[32];
        split(V::mul(load(d), factor), bytes, sums);
        const int count = 4 * words - d < 16 ? 4 * words - d : 16;
        std::memcpy(high + d, bytes, size_t(count));
        std::memcpy(low + d, bytes + 16, size_t(count));
      }
      begin_at(n, sums);
    }
  }

  // Numbers of -127..127 to 16 high bytes and then 16 low ones, which are counted up.
  static INLINE void split(F x, int8_t* bytes, F (&sums)[2]) {
    const F high = V::round(x), low = V::round(V::mul(V::sub(x, high), V::set1(254.0f)));
    V::store_int8(bytes, high);
    V::store_int8(bytes + 16, low);
    sums[0] = V::add(sums[0], high);  // whole numbers below 2^24: exact
    sums[1] = V::add(sums[1], low);
  }

  void begin_at(int n, const F (&sums)[2]) {
    if constexpr (V::OFFSET)
      UNROLL for (int i = 0; i < 2; ++i) starts[n][i] = -128 * int32_t(V::sum(sums[i]));
  }

  // The pages' keys, then their values, then the keys of the sequence after this one are read in this order: where
  // the `region`th piece begins, null behind the last.
  const char* piece(int region) const {
    const int pages = (seen + PAGE - 1) / PAGE;
    if (region < pages) return a.pages[region] + a.offset;
    if (region < 2 * pages) return a.pages[region - pages] + a.offset + gptwo::keys_bytes(a.D, CACHE);
    return region - 2 * pages < a.next_pages ? a.next[region - 2 * pages] + a.offset : nullptr;
  }

  // Ask for the piece that comes AHEAD_PAGES after this one, all of it at once: so more of it is on its way at a time
  // than if each load asked for one line.
  INLINE void ask(int region) const {
    if constexpr (N == 1) {
      region += AHEAD_PAGES;
      const char* begin = piece(region);
      if (!begin) return;
      const int pages = (seen + PAGE - 1) / PAGE;
      const bool values = region >= pages && region < 2 * pages;
      const size_t keys = gptwo::keys_bytes(a.D, CACHE), scales = gptwo::scales_at(a.D, CACHE);
      for (size_t i = 0; i < (values ? scales - keys : keys); i += 64) V::prefetch(begin + i);
      if (BYTES && !values)
        for (size_t i = scales; i < gptwo::block_bytes(a.D, CACHE); i += 64) V::prefetch(begin + i);
    }
  }

  void score() {
    const size_t tile_bytes = size_t(words) * 64, scales_at = gptwo::scales_at(a.D, CACHE);
    for (int s = 0; s < rounded; s += 16) {
      const size_t tile = size_t(s % PAGE / 16) * tile_bytes;
      const char* keys = block(s) + tile;
      if (s % PAGE == 0) ask(s / PAGE);
      if constexpr (BYTES) {
        I sum[N][2];
        UNROLL for (int n = 0; n < N; ++n)
          UNROLL for (int i = 0; i < 2; ++i) sum[n][i] = V::set1_int(starts[n][i]);
        for (int d = 0; d < words; ++d) {
          const I key = V::load_bytes(keys + 64 * d);
          UNROLL for (int n = 0; n < N; ++n)
            UNROLL for (int i = 0; i < 2; ++i)
              sum[n][i] = V::dot_bytes(sum[n][i], key, V::set1_int(word_at(queries + 4 * ((2 * n + i) * words + d))));
        }
        const F own = V::load(reinterpret_cast<const float*>(block(s) + scales_at) + s % PAGE);
        UNROLL for (int n = 0; n < N; ++n)
          V::store(scores + size_t(n) * rounded + s,
                   V::mul(V::mul(both(sum[n]), V::set1(scales[n] * a.scale)), own));
      } else {
        F sum[N];
        UNROLL for (int n = 0; n < N; ++n) sum[n] = V::zero();
        for (int d = 0; d < words; ++d) {
          const char* key = keys + 64 * d;
          UNROLL for (int n = 0; n < N; ++n) sum[n] = accumulate(sum[n], key, queries + 4 * (n * words + d));
        }
        UNROLL for (int n = 0; n < N; ++n)
          V::store(scores + size_t(n) * rounded + s, V::mul(sum[n], V::set1(a.scale)));
      }
    }
  }

  static F both(const I (&sum)[2]) { return V::fma(V::to_float(sum[1]), V::set1(LOW), V::to_float(sum[0])); }

  // sum += 16 words * the word at `factor`
  static INLINE F accumulate(F sum, const char* sixteen, const char* factor) {
    if constexpr (CACHE == gptwo::Precision::bf16)
      return V::dot_bf16(sum, V::load_bytes(sixteen), V::set1_int(word_at(factor)));
    else
      return V::fma(V::load(reinterpret_cast<const float*>(sixteen)),
                    V::set1(*reinterpret_cast<const float*>(factor)), sum);
  }

  // Scores of query n to exp(score - largest), 0 where it does not see, then to what `mix` reads in their place: a
  // word holds the weights of as many tokens as stand in a word of the values. Returns what the mix is to be
  // multiplied by.
  float soften(int n) {
    float* line = scores + size_t(n) * rounded;
    const int own = a.position + first + n + 1;
    const int end = gptwo::round_up(own, 16);  // no more, so that the order of the sum is its own
    for (int s = own; s < rounded; ++s) line[s] = -3.0e38f;
    F top = V::load(line);
    for (int s = 16; s < end; s += 16) top = V::max(top, V::load(line + s));
    const F most = V::set1(V::largest(top));
    for (int s = 0; s < end; s += 16) V::store(line + s, exponential<V>(V::sub(V::load(line + s), most)));
    for (int s = own; s < rounded; ++s) line[s] = 0.0f;
    F total = V::zero();
    for (int s = 0; s < end; s += 16) total = V::add(total, V::load(line + s));
    const float factor = 1.0f / V::sum(total);
    if constexpr (CACHE == gptwo::Precision::bf16)
      for (int s = 0; s < rounded; s += 16) V::store_bf16(reinterpret_cast<uint16_t*>(line) + s, V::load(line + s));
    if constexpr (BYTES) return factor * in_bytes(n, line, end);
    return factor;
  }

  // Each tile of 16 weights, times the scales of their values, to 16 high bytes and 16 low ones; returns their scale.
  float in_bytes(int n, float* line, int end) {
    const size_t at = gptwo::scales_at(a.D, CACHE) + PAGE * 4;
    F top = V::zero();
    for (int s = 0; s < end; s += 16) {
      const F weight = V::mul(V::load(line + s), V::load(reinterpret_cast<const float*>(block(s) + at) + s % PAGE));
      V::store(line + s, weight);
      top = V::max(top, weight);
    }
    const float most = V::largest(top);
    const F factor = V::set1(most > 0 ? 127.0f / most : 0.0f);
    F sums[2] = {V::zero(), V::zero()};
    for (int s = 0; s < rounded; s += 16)
      split(V::mul(V::load(line + s), factor), reinterpret_cast<int8_t*>(line + s), sums);
    begin_at(n, sums);
    return most / 127.0f;
  }

  // Weighted sum of the values: PARTS vectors from number d on.
  template <int PARTS_HERE>
  void mix(int d, int wide, const float (&factors)[N]) {
    F sum[N][PARTS_HERE];
    if constexpr (BYTES)
      gather_bytes<PARTS_HERE>(d, wide, sum);
    else
      gather<PARTS_HERE>(d, wide, sum);
    UNROLL for (int n = 0; n < N; ++n)
      UNROLL for (int i = 0; i < PARTS_HERE; ++i) {
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

  // Where numbers d and on of the values of token s stand.
  const char* values_of(int s, int d, int wide) const {
    if (d == 0 && s % PAGE == 0) ask((seen + PAGE - 1) / PAGE + s / PAGE);
    return block(s) + gptwo::keys_bytes(a.D, CACHE) + (size_t(s % PAGE / WORD) * wide + d) * 4;
  }

  template <int PARTS_HERE>
  INLINE void gather(int d, int wide, F (&sum)[N][PARTS_HERE]) {
    UNROLL for (int n = 0; n < N; ++n)
      UNROLL for (int i = 0; i < PARTS_HERE; ++i) sum[n][i] = V::zero();
    for (int s = 0; s < seen; s += WORD) {
      const char* row = values_of(s, d, wide);
      UNROLL for (int n = 0; n < N; ++n) {
        const char* weight = reinterpret_cast<const char*>(scores + size_t(n) * rounded) + s * (4 / WORD);
        UNROLL for (int i = 0; i < PARTS_HERE; ++i) sum[n][i] = accumulate(sum[n][i], row + 64 * i, weight);
      }
    }
  }

  template <int PARTS_HERE>
  INLINE void gather_bytes(int d, int wide, F (&mixed)[N][PARTS_HERE]) {
    I sum[N][PARTS_HERE][2];
    UNROLL for (int n = 0; n < N; ++n)
      UNROLL for (int i = 0; i < PARTS_HERE; ++i)
        UNROLL for (int j = 0; j < 2; ++j) sum[n][i][j] = V::set1_int(starts[n][j]);
    for (int s = 0; s < seen; s += WORD) {
      const char* row = values_of(s, d, wide);
      UNROLL for (int n = 0; n < N; ++n) {
        const char* weights = reinterpret_cast<const char*>(scores + size_t(n) * rounded + s / 16 * 16) + s % 16;
        const I high = V::set1_int(word_at(weights)), low = V::set1_int(word_at(weights + 16));
        UNROLL for (int i = 0; i < PARTS_HERE; ++i) {
          const I value = V::load_bytes(row + 64 * i);
          sum[n][i][0] = V::dot_bytes(sum[n][i][0], value, high);
          sum[n][i][1] = V::dot_bytes(sum[n][i][1], value, low);
        }
      }
    }
    UNROLL for (int n = 0; n < N; ++n)
      UNROLL for (int i = 0; i < PARTS_HERE; ++i) mixed[n][i] = both(sum[n][i]);
  }
};

template <class V, gptwo::Precision CACHE>
void attend_in(const gptwo::Attention& a) {
  int first = 0;
  for (; first + gptwo::QUERIES <= a.count; first += gptwo::QUERIES) Queries<V, CACHE, gptwo::QUERIES>(a, first);
  for (; first < a.count; ++first) Queries<V, CACHE, 1>(a, first);
}

template <class V>
void attend(const gptwo::Attention& a) {
  switch (a.cache) {
    case gptwo::Precision::fp32: return attend_in<V, gptwo::Precision::fp32>(a);
    case gptwo::Precision::bf16: return attend_in<V, gptwo::Precision::bf16>(a);
    default: return attend_in<V, gptwo::Precision::int8>(a);
  }
}

}  // namespace
