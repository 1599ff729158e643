// Products of activations and packed weights.
//
// A tile is ROWS tokens by PANELS panels of 16 outputs, in registers. Every output is summed over the inputs in
// ascending order whatever the shape of the tile, so a token's numbers do not depend on the tokens beside it.
#pragma once

#include <cstring>

#include "math.hpp"

namespace {

inline int32_t word_at(const char* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

// Loops over the registers of a tile are written out, or the tile would live in memory.
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define INLINE inline __attribute__((always_inline))

// Bytes of weights that are asked for ahead of their use, over all panels of a tile; into the second cache, as the
// first takes fewer at a time.
constexpr int AHEAD = 8192;

template <class V, int ROWS, int PANELS>
struct Tile {
  using F = typename V::F;
  using I = typename V::I;

  const gptwo::Matrix& w;
  const gptwo::Inputs& x;
  const char* panel[PANELS];
  const char* row[ROWS];
  F sum[ROWS][PANELS];

  Tile(const gptwo::Matrix& w, const gptwo::Inputs& x, int m, int p) : w(w), x(x) {
    UNROLL for (int v = 0; v < PANELS; ++v) panel[v] = w.data + size_t(p + v) * w.panel_bytes;
    UNROLL for (int r = 0; r < ROWS; ++r) row[r] = x.data + size_t(m + r) * x.stride;
    clear(sum);
    switch (w.precision) {
      case gptwo::Precision::fp32: fp32(); break;
      case gptwo::Precision::bf16: bf16(); break;
      case gptwo::Precision::int8: int8(m, p); break;
      case gptwo::Precision::int4: int4(m, p); break;
    }
  }

  // Ask for memory ahead of its use, at byte `at` of the panels; behind their end, of the panels that come next.
  INLINE void ask(size_t at) {
    size_t place = at + AHEAD / PANELS;
    if (place >= w.panel_bytes) place += (PANELS - 1) * w.panel_bytes;
    UNROLL for (int v = 0; v < PANELS; ++v) V::prefetch(panel[v] + place);
  }

  INLINE void fp32() {
    F total[ROWS][PANELS];
    clear(total);
    for (int k = 0; k < w.K; ++k) {
      ask(64 * size_t(k));
      F weights[PANELS];
      UNROLL for (int v = 0; v < PANELS; ++v) {
        weights[v] = V::load(reinterpret_cast<const float*>(panel[v]) + 16 * k);
      }
      UNROLL for (int r = 0; r < ROWS; ++r) {
        const F input = V::set1(reinterpret_cast<const float*>(row[r])[k]);
        UNROLL for (int v = 0; v < PANELS; ++v) total[r][v] = V::fma(weights[v], input, total[r][v]);
      }
    }
    keep(total);
  }

  INLINE void bf16() {
    F total[ROWS][PANELS];
    clear(total);
    const int pairs = (w.K + 1) / 2;
    for (int k = 0; k < pairs; ++k) {
      ask(64 * size_t(k));
      I weights[PANELS];
      UNROLL for (int v = 0; v < PANELS; ++v) {
        weights[v] = V::load_bytes(panel[v] + 64 * size_t(k));
      }
      UNROLL for (int r = 0; r < ROWS; ++r) {
        const I input = V::set1_int(word_at(row[r] + 4 * k));
        UNROLL for (int v = 0; v < PANELS; ++v) total[r][v] = V::dot_bf16(total[r][v], weights[v], input);
      }
    }
    keep(total);
  }

  static INLINE void clear(F (&total)[ROWS][PANELS]) {
    UNROLL for (int r = 0; r < ROWS; ++r)
      UNROLL for (int v = 0; v < PANELS; ++v) total[r][v] = V::zero();
  }

  INLINE void keep(const F (&total)[ROWS][PANELS]) {
    UNROLL for (int r = 0; r < ROWS; ++r)
      UNROLL for (int v = 0; v < PANELS; ++v) sum[r][v] = total[r][v];
  }

  INLINE void begin(I (&total)[ROWS][PANELS], int m, int group) {
    UNROLL for (int r = 0; r < ROWS; ++r) {
      const int32_t start = V::OFFSET ? -x.sums[size_t(m + r) * x.groups + group] : 0;
      UNROLL for (int v = 0; v < PANELS; ++v) total[r][v] = V::set1_int(start);
    }
  }

  INLINE void int8(int m, int p) {
    const int words = (w.K + 3) / 4;
    for (int group = 0; group < x.groups; ++group) {
      I total[ROWS][PANELS];
      begin(total, m, group);
      const int end = words < (group + 1) * gptwo::GROUP_INT8 / 4 ? words : (group + 1) * gptwo::GROUP_INT8 / 4;
      for (int k = group * gptwo::GROUP_INT8 / 4; k < end; ++k) {
        ask(64 * size_t(k));
        I weights[PANELS];
        UNROLL for (int v = 0; v < PANELS; ++v) {
          weights[v] = V::load_bytes(panel[v] + 64 * size_t(k));
        }
        UNROLL for (int r = 0; r < ROWS; ++r) {
          const I input = V::set1_int(word_at(row[r] + 4 * k));
          UNROLL for (int v = 0; v < PANELS; ++v) total[r][v] = V::dot_bytes(total[r][v], weights[v], input);
        }
      }
      UNROLL for (int r = 0; r < ROWS; ++r) {
        const F scale = V::set1(x.scales[size_t(m + r) * x.groups + group]);
        UNROLL for (int v = 0; v < PANELS; ++v) sum[r][v] = V::fma(V::to_float(total[r][v]), scale, sum[r][v]);
      }
    }
    UNROLL for (int v = 0; v < PANELS; ++v) {
      const F scale = V::load(w.scales + 16 * size_t(p + v));
      UNROLL for (int r = 0; r < ROWS; ++r) sum[r][v] = V::mul(sum[r][v], scale);
    }
  }

  INLINE void int4(int m, int p) {
    F whole[ROWS][PANELS];
    clear(whole);
    constexpr int PAIRS = gptwo::GROUP_INT4 / 8;  // loads of a group: each holds eight inputs of 16 outputs
    for (int group = 0; group < x.groups; ++group) {
      I total[ROWS][PANELS];
      begin(total, m, group);
      for (int j = 0; j < PAIRS; ++j) {
        const size_t at = 64 * (size_t(group) * PAIRS + j);
        ask(at);
        I low[PANELS], high[PANELS];
        UNROLL for (int v = 0; v < PANELS; ++v) {
          const I both = V::load_bytes(panel[v] + at);
          low[v] = V::low_levels(both);
          high[v] = V::high_levels(both);
        }
        UNROLL for (int r = 0; r < ROWS; ++r) {
          const char* inputs = row[r] + group * gptwo::GROUP_INT4 + 8 * j;
          const I first = V::set1_int(word_at(inputs)), second = V::set1_int(word_at(inputs + 4));
          UNROLL for (int v = 0; v < PANELS; ++v) {
            total[r][v] = V::dot_bytes(total[r][v], low[v], first);
            total[r][v] = V::dot_bytes(total[r][v], high[v], second);
          }
        }
      }
      UNROLL for (int v = 0; v < PANELS; ++v) {
        const F weight_scale = V::load_bf16(w.group_scales + 16 * (size_t(p + v) * x.groups + group));
        UNROLL for (int r = 0; r < ROWS; ++r) {
          const F scale = V::mul(weight_scale, V::set1(x.scales[size_t(m + r) * x.groups + group]));
          whole[r][v] = V::fma(V::to_float(total[r][v]), scale, whole[r][v]);
        }
      }
    }
    keep(whole);
  }

  void finish(int p, float* out, size_t stride, gptwo::Finish how) {
    UNROLL for (int r = 0; r < ROWS; ++r)
      UNROLL for (int v = 0; v < PANELS; ++v) {
        float* place = out + r * stride + 16 * v;
        F value = V::add(sum[r][v], V::load(w.bias + 16 * size_t(p + v)));
        if (how == gptwo::Finish::add) value = V::add(V::load(place), value);
        if (how == gptwo::Finish::gelu) value = gelu<V>(value);
        V::store(place, value);
      }
  }
};

// Panels p..end of ROWS rows, as many side by side as there are registers for.
template <class V, int ROWS, int PANELS>
void product_rows(const gptwo::Matrix& w, const gptwo::Inputs& x, int m, int p, int end, float* out, size_t stride,
                  gptwo::Finish how) {
  for (; p + PANELS <= end; p += PANELS, out += 16 * PANELS) {
    Tile<V, ROWS, PANELS> tile(w, x, m, p);
    tile.finish(p, out, stride, how);
  }
  if constexpr (PANELS > 1)
    if (p < end) product_rows<V, ROWS, PANELS / 2>(w, x, m, p, end, out, stride, how);
}

template <class V, int ROWS>
void product_of(int rows, const gptwo::Matrix& w, const gptwo::Inputs& x, int m, int p, int end, float* out,
                size_t stride, gptwo::Finish how) {
  if constexpr (ROWS > 1)
    if (rows < ROWS) return product_of<V, ROWS - 1>(rows, w, x, m, p, end, out, stride, how);
  constexpr int FIT = V::ACCUMULATORS / ROWS;
  constexpr int WIDE = FIT >= 4 ? 4 : FIT >= 2 ? 2 : 1;
  constexpr int FIT_INT4 = V::ACCUMULATORS / (2 * ROWS);  // int4 holds its sums and those of the group
  constexpr int WIDE_INT4 = FIT_INT4 >= 4 ? 4 : FIT_INT4 >= 2 ? 2 : 1;
  if (w.precision == gptwo::Precision::int4)
    product_rows<V, ROWS, WIDE_INT4>(w, x, m, p, end, out, stride, how);
  else
    product_rows<V, ROWS, WIDE>(w, x, m, p, end, out, stride, how);
}

template <class V>
void product(const gptwo::Matrix& w, const gptwo::Inputs& x, int M, int begin, int end, float* out, size_t stride,
             gptwo::Finish how) {
  using gptwo::ABREAST;
  const int most = w.precision == gptwo::Precision::int4 && M > V::ROWS ? V::ROWS_INT4 : V::ROWS;
  const int tiles = (M + most - 1) / most;
  for (int p = begin; p < end; p += ABREAST, out += 16 * ABREAST) {  // they stay in the cache for all rows
    const int last = p + ABREAST < end ? p + ABREAST : end;
    for (int t = 0, m = 0; t < tiles; ++t) {
      const int rows = (M - m + tiles - t - 1) / (tiles - t);  // even shares: 12 rows are 6 + 6, not 8 + 4
      product_of<V, V::ROWS>(rows, w, x, m, p, last, out + m * stride, stride, how);
      m += rows;
    }
  }
}

}  // namespace
