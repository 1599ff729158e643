#include "pack.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace gptwo {
namespace {

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

float widen_bf16(uint16_t x) { return from_bits(uint32_t(x) << 16); }

uint16_t to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return uint16_t(u >> 16 | 0x40);  // NaN stays NaN
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

float widen_fp16(uint16_t x) {
  const uint32_t sign = uint32_t(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 1023;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
  if (exponent) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
  return from_bits(sign) + (sign ? -1.0f : 1.0f) * float(fraction) * 0x1p-24f;
}

// The level nearest to each multiple of 1 from -128 to 127.
struct Nearest {
  uint8_t of[256];
  Nearest() {
    for (int x = -128; x < 128; ++x) {
      int best = 0;
      for (int i = 1; i < 16; ++i)
        if (std::abs(x - LEVELS[i]) < std::abs(x - LEVELS[best])) best = i;
      of[x + 128] = uint8_t(best);
    }
  }
};
const Nearest NEAREST;

uint8_t level_of(float x) {
  const float inside = std::min(127.0f, std::max(-128.0f, x));
  return NEAREST.of[int(std::lrintf(inside)) + 128];
}

// Choose scale and levels of one group: of several scales the one whose levels come nearest to the weights, by the
// square of the error, each with the best factor for its levels (least squares); then that factor is a scale itself.
float quantise_group(const float* weights, uint8_t* levels) {
  float most = 0;
  for (int k = 0; k < GROUP_INT4; ++k)
    if (std::fabs(weights[k]) > std::fabs(most)) most = weights[k];
  std::memset(levels, 8, GROUP_INT4);
  if (most == 0 || !std::isfinite(most)) return 0;
  float best = -1, scale = 0;
  const auto attempt = [&](float inverse) {
    float along = 0, norm = 0;
    for (int k = 0; k < GROUP_INT4; ++k) {
      const float level = LEVELS[level_of(weights[k] * inverse)];
      along += level * weights[k];
      norm += level * level;
    }
    if (norm > 0 && along * along > best * norm) {
      best = along * along / norm;
      scale = along / norm;
    }
  };
  for (int end = 0; end < 2; ++end)  // the largest weight at the lowest or the highest level, or beyond it
    for (int step = -2; step <= 3; ++step) attempt((end ? 113.0f : -127.0f) * (1.0f + 0.07f * step) / most);
  if (scale != 0) attempt(1.0f / scale);
  const float stored = widen_bf16(to_bf16(scale));
  if (stored == 0) return 0;
  for (int k = 0; k < GROUP_INT4; ++k) levels[k] = level_of(weights[k] / stored);
  return stored;
}

// K weights of 16 outputs, side by side in a file or far apart, to (16, padded); rows below 0 are zeros.
template <class T, class Widen>
void read_lanes(const Source& source, const int* from, int K, int padded, float* rows, Widen widen) {
  const char* data = static_cast<const char*>(source.data);
  const auto at = [&](int64_t n, int64_t k) {
    T x;  // a file's tensors need not be aligned
    std::memcpy(&x, data + sizeof(T) * (n * source.row_step + k * source.column_step), sizeof(T));
    return widen(x);
  };
  if (source.column_step == 1) {
    for (int lane = 0; lane < LANES; ++lane)
      for (int k = 0; k < K; ++k) rows[size_t(lane) * padded + k] = from[lane] < 0 ? 0.0f : at(from[lane], k);
    return;
  }
  for (int k = 0; k < K; ++k)  // transposed: the 16 are neighbours
    for (int lane = 0; lane < LANES; ++lane)
      rows[size_t(lane) * padded + k] = from[lane] < 0 ? 0.0f : at(from[lane], k);
}

// One panel: rows (16, padded K) of float32 to the layout of kernels.hpp.
void pack_panel(Precision precision, const float* rows, int padded, char* out, float* scales, uint16_t* group_scales) {
  for (int lane = 0; lane < LANES; ++lane) {
    const float* row = rows + size_t(lane) * padded;
    switch (precision) {
      case Precision::fp32:
        for (int k = 0; k < padded; ++k) reinterpret_cast<float*>(out)[k * 16 + lane] = row[k];
        break;
      case Precision::bf16:
        for (int k = 0; k < padded; ++k)
          reinterpret_cast<uint16_t*>(out)[k / 2 * 32 + lane * 2 + k % 2] = to_bf16(row[k]);
        break;
      case Precision::int8: {
        float most = 0;
        for (int k = 0; k < padded; ++k) most = std::max(most, std::fabs(row[k]));
        scales[lane] = most / 127.0f;
        const float factor = most > 0 ? 127.0f / most : 0;
        for (int k = 0; k < padded; ++k)
          out[k / 4 * 64 + lane * 4 + k % 4] = char(uint8_t(std::lrintf(row[k] * factor) + 128));
        break;
      }
      case Precision::int4: {
        const int groups = padded / GROUP_INT4;
        for (int group = 0; group < groups; ++group) {
          uint8_t levels[GROUP_INT4];
          const float scale = quantise_group(row + group * GROUP_INT4, levels);
          group_scales[group * 16 + lane] = to_bf16(scale);
          for (int j = 0; j < GROUP_INT4 / 8; ++j)
            for (int i = 0; i < 4; ++i)
              out[(size_t(group) * 4 + j) * 64 + lane * 4 + i] = char(levels[8 * j + i] | levels[8 * j + 4 + i] << 4);
        }
        break;
      }
    }
  }
}

}  // namespace

float Source::at(int64_t n, int64_t k) const {
  const int64_t place = n * row_step + k * column_step;
  if (type == Stored::fp32) {
    float x;  // a file's tensors need not be aligned
    std::memcpy(&x, static_cast<const char*>(data) + 4 * place, 4);
    return x;
  }
  uint16_t x;
  std::memcpy(&x, static_cast<const char*>(data) + 2 * place, 2);
  return type == Stored::bf16 ? widen_bf16(x) : widen_fp16(x);
}

void Packed::row(int n, float* out) const {
  const Matrix& w = matrix;
  const char* panel = w.data + size_t(n / 16) * w.panel_bytes;
  const int lane = n % 16;
  switch (w.precision) {
    case Precision::fp32:
      for (int k = 0; k < w.K; ++k) out[k] = reinterpret_cast<const float*>(panel)[k * 16 + lane];
      break;
    case Precision::bf16:
      for (int k = 0; k < w.K; ++k)
        out[k] = widen_bf16(reinterpret_cast<const uint16_t*>(panel)[k / 2 * 32 + lane * 2 + k % 2]);
      break;
    case Precision::int8:
      for (int k = 0; k < w.K; ++k)
        out[k] = float(int(uint8_t(panel[k / 4 * 64 + lane * 4 + k % 4])) - 128) * w.scales[n];
      break;
    case Precision::int4: {
      const int groups = padded_inputs(w.precision, w.K) / GROUP_INT4;
      for (int k = 0; k < w.K; ++k) {
        const uint8_t both = uint8_t(panel[k / 8 * 64 + lane * 4 + k % 4]);
        const float scale = widen_bf16(w.group_scales[(size_t(n / 16) * groups + k / GROUP_INT4) * 16 + lane]);
        out[k] = LEVELS[k % 8 < 4 ? both & 15 : both >> 4] * scale;
      }
      break;
    }
  }
}

Packed room(Arena& arena, Precision precision, int N, int K) {
  Packed packed;
  Matrix& w = packed.matrix;
  const int padded = padded_inputs(precision, K);
  w.precision = precision;
  w.N = N;
  w.K = K;
  w.panels = (N + LANES - 1) / LANES;
  w.panel_bytes = precision == Precision::int4 ? size_t(padded) * 8 : size_t(padded) * 16 * input_bytes(precision);
  const size_t outputs = size_t(w.panels) * LANES;
  w.data = arena.take(w.panels * w.panel_bytes);
  if (precision == Precision::int8) w.scales = reinterpret_cast<float*>(arena.take(outputs * 4));
  if (precision == Precision::int4)
    w.group_scales = reinterpret_cast<uint16_t*>(arena.take(outputs * (padded / GROUP_INT4) * 2));
  w.bias = reinterpret_cast<float*>(arena.take(outputs * 4));
  return packed;
}

namespace {

// To the biases of panel p what packing took from its outputs when the inputs are `usual`: of E[(W - W') x] the part
// that is known (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction").
void give_back(const Packed& packed, int p, const float* rows, int padded, const float* usual) {
  const Matrix& w = packed.matrix;
  std::vector<float> kept(static_cast<size_t>(w.K));
  for (int n = p * LANES; n < std::min(w.N, (p + 1) * LANES); ++n) {
    packed.row(n, kept.data());
    const float* row = rows + size_t(n % LANES) * padded;
    double lost = 0;
    for (int k = 0; k < w.K; ++k) lost += double(usual[k]) * (double(row[k]) - kept[k]);
    const_cast<float*>(w.bias)[n] += float(lost);
  }
}

// Fill the places of a matrix; read(p, rows) gives the weights of panel p, (16, padded), outputs beyond N zeros.
void pack_into(Team& team, const Packed& packed, const std::function<void(int p, float* rows)>& read,
               const float* usual = nullptr) {
  const Matrix& w = packed.matrix;
  const int padded = padded_inputs(w.precision, w.K);
  char* data = const_cast<char*>(w.data);  // this function's to fill
  float* scales = const_cast<float*>(w.scales);
  uint16_t* group_scales = const_cast<uint16_t*>(w.group_scales);
  team.run([&](Worker& worker) {
    std::vector<float> rows(size_t(LANES) * padded);
    for (auto piece = worker.take(w.panels, 4); piece.begin < piece.end; piece = worker.take(w.panels, 4))
      for (int p = piece.begin; p < piece.end; ++p) {
        read(p, rows.data());
        pack_panel(w.precision, rows.data(), padded, data + p * w.panel_bytes, scales + p * LANES,
                   group_scales + size_t(p) * (padded / GROUP_INT4) * LANES);
        if (usual && w.precision == Precision::int4) give_back(packed, p, rows.data(), padded, usual);
      }
  });
}

}  // namespace

Packed pack(Team& team, Arena& arena, Precision precision, const Source& weights, const Source* bias, int N, int K,
            const std::function<int(int)>& row, const float* usual) {
  const Packed packed = room(arena, precision, N, K);
  const int padded = padded_inputs(precision, K);
  if (bias)
    for (int n = 0; n < N; ++n)
      if (row(n) >= 0) const_cast<float*>(packed.matrix.bias)[n] = bias->at(row(n), 0);
  const auto read = [&](int p, float* rows) {
    int from[LANES];
    for (int lane = 0; lane < LANES; ++lane) from[lane] = p * LANES + lane < N ? row(p * LANES + lane) : -1;
    switch (weights.type) {
      case Stored::fp32: read_lanes<float>(weights, from, K, padded, rows, [](float x) { return x; }); break;
      case Stored::bf16: read_lanes<uint16_t>(weights, from, K, padded, rows, widen_bf16); break;
      case Stored::fp16: read_lanes<uint16_t>(weights, from, K, padded, rows, widen_fp16); break;
    }
  };
  pack_into(team, packed, read, usual);
  return packed;
}

Packed pack(Team& team, Arena& arena, Precision precision, int N, int K,
            const std::function<void(int n, float* weights)>& read) {
  const Packed packed = room(arena, precision, N, K);
  const int padded = padded_inputs(precision, K);
  pack_into(team, packed, [&](int p, float* rows) {
    for (int lane = 0; lane < LANES; ++lane) {
      float* line = rows + size_t(lane) * padded;
      if (p * LANES + lane < N)
        read(p * LANES + lane, line);
      else
        std::fill(line, line + K, 0.0f);
    }
  });
  return packed;
}

std::vector<float> read_vector(const Source& source, int count) {
  std::vector<float> values(round_up(count, ROW_ALIGNMENT));
  for (int i = 0; i < count; ++i) values[i] = source.at(i, 0);
  return values;
}

}  // namespace gptwo
