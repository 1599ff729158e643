// What is done to single rows: layer norm, the form that products take, exponentials for sampling.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "math.hpp"

namespace {

template <class V>
void normalise(const float* row, const float* gain, const float* bias, int C, float epsilon, float* out) {
  const int whole = C / 16 * 16;
  auto total = V::zero();
  for (int i = 0; i < whole; i += 16) total = V::add(total, V::load(row + i));
  float mean = V::sum(total);
  for (int i = whole; i < C; ++i) mean += row[i];
  mean /= float(C);
  total = V::zero();
  for (int i = 0; i < whole; i += 16) {
    const auto apart = V::sub(V::load(row + i), V::set1(mean));
    total = V::fma(apart, apart, total);
  }
  float variance = V::sum(total);
  for (int i = whole; i < C; ++i) variance += (row[i] - mean) * (row[i] - mean);
  const float scale = 1.0f / std::sqrt(variance / float(C) + epsilon);
  for (int i = 0; i < whole; i += 16) {
    const auto value = V::mul(V::sub(V::load(row + i), V::set1(mean)), V::set1(scale));
    V::store(out + i, V::fma(value, V::load(gain + i), V::load(bias + i)));
  }
  for (int i = whole; i < C; ++i) out[i] = (row[i] - mean) * scale * gain[i] + bias[i];
}

// One group of a row to signed bytes: largest magnitude to 127.
template <class V>
void prepare_group(const float* row, int count, int8_t* out, float* scale, int32_t* sum) {
  auto top = V::zero();
  for (int i = 0; i < count; i += 16) top = V::max(top, V::absolute(V::load(row + i)));
  const float most = V::largest(top);
  *scale = most / 127.0f;
  const auto factor = V::set1(most > 0 ? 127.0f / most : 0.0f);
  auto total = V::zero();  // of whole numbers below 2^24: exact
  for (int i = 0; i < count; i += 16) {
    const auto rounded = V::round(V::mul(V::load(row + i), factor));
    total = V::add(total, rounded);
    V::store_int8(out + i, rounded);
  }
  *sum = 128 * int32_t(V::sum(total));
}

template <class V>
void prepare(gptwo::Precision precision, const float* row, int K, const gptwo::Inputs& x, int m) {
  char* out = x.data + size_t(m) * x.stride;
  const int padded = gptwo::round_up(K, gptwo::ROW_ALIGNMENT);
  if (precision == gptwo::Precision::fp32) {
    std::memcpy(out, row, size_t(K) * 4);
  } else if (precision == gptwo::Precision::bf16) {
    for (int i = 0; i < padded; i += 16) V::store_bf16(reinterpret_cast<uint16_t*>(out) + i, V::load(row + i));
  } else {
    const int size = precision == gptwo::Precision::int8 ? gptwo::GROUP_INT8 : gptwo::GROUP_INT4;
    for (int group = 0; group < x.groups; ++group) {
      const int at = group * size, count = padded - at < size ? padded - at : size;
      const size_t place = size_t(m) * x.groups + group;
      prepare_group<V>(row + at, count, reinterpret_cast<int8_t*>(out) + at, x.scales + place, x.sums + place);
    }
  }
}

template <class V>
void bend(gptwo::Bend how, float* row, int count) {
  if (how == gptwo::Bend::none) return;
  for (int i = 0; i < count; i += 16) {
    const auto x = V::load(row + i);
    if (how == gptwo::Bend::relu) {
      V::store(row + i, V::max(x, V::zero()));
    } else if (how == gptwo::Bend::silu) {
      const auto e = exponential<V>(V::sub(V::zero(), x));
      V::store(row + i, V::div(x, V::add(V::set1(1.0f), e)));
    } else {
      V::store(row + i, gelu<V>(x));
    }
  }
}

template <class V>
void exponentials(const float* logits, int count, float top, float factor, float* out) {
  for (int i = 0; i < count; i += 16) {
    const auto x = V::mul(V::sub(V::load(logits + i), V::set1(top)), V::set1(factor));
    V::store(out + i, exponential<V>(x));
  }
  for (int i = 0; i < count; ++i)
    if ((logits[i] - top) * factor < -87.0f) out[i] = 0.0f;
}

// Where the first of the largest stands; -1 where a number is NaN.
template <class V>
int first_largest(const float* numbers, int count) {
  constexpr int BLOCK = 256;  // of a block only the largest is looked for, which needs no branches
  constexpr float LOWEST = -std::numeric_limits<float>::infinity();
  float top = LOWEST;
  double total = 0;  // NaN as soon as one of them is
  int place = 0;
  for (int start = 0; start < count; start += BLOCK) {
    const int end = start + BLOCK < count ? start + BLOCK : count, whole = start + (end - start) / 16 * 16;
    auto most = V::set1(LOWEST), sum = V::zero();
    for (int i = start; i < whole; i += 16) {
      const auto x = V::load(numbers + i);
      most = V::max(most, x);
      sum = V::add(sum, x);
    }
    float here = V::largest(most);
    total += V::sum(sum);
    for (int i = whole; i < end; ++i) {
      here = numbers[i] > here ? numbers[i] : here;
      total += numbers[i];
    }
    if (here > top) {
      top = here;
      for (place = start; numbers[place] != top; ++place) {
      }
    }
  }
  return total == total ? place : -1;
}

// Of each whole panel of `numbers` how large one of them is at least, and how large they are at most, where each may be
// off by away * scale + length * spread.
template <class V>
void bounds(const float* numbers, const float* away, const float* length, int panels, float scale, float spread,
            float* least, float* most) {
  for (int p = 0; p < panels; ++p) {
    const auto x = V::load(numbers + 16 * p);
    const auto off = V::fma(V::load(away + 16 * p), V::set1(scale), V::mul(V::load(length + 16 * p), V::set1(spread)));
    least[p] = V::largest(V::sub(x, off));
    most[p] = V::largest(V::add(x, off));
  }
}

}  // namespace
