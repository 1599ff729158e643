#include "screen.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace gptwo {
namespace {

constexpr float ROUNDING = 2e-4f;  // of |w| |h|: sums of float32 over thousands of numbers stay well within

}  // namespace

Screen::Screen(Team& team, const Packed& head) {
  const int N = head.matrix.N, K = head.matrix.K;
  small_ = pack(team, arena_, Precision::int8, N, K, [&](int n, float* weights) { head.row(n, weights); });
  away_.resize(size_t(head.matrix.panels) * LANES);
  length_.resize(away_.size());
  team.run([&](Worker& worker) {
    std::vector<float> exact(static_cast<size_t>(K)), rough(static_cast<size_t>(K));
    for (auto piece = worker.take(N, 64); piece.begin < piece.end; piece = worker.take(N, 64))
      for (int n = piece.begin; n < piece.end; ++n) {
        head.row(n, exact.data());
        small_.row(n, rough.data());
        double away = 0, length = 0;
        for (int k = 0; k < K; ++k) {
          away += double(exact[k] - rough[k]) * (exact[k] - rough[k]);
          length += double(rough[k]) * rough[k];
        }
        away_[n] = float(std::sqrt(away));
        length_[n] = float(std::sqrt(length));
      }
  });
}

std::vector<int> Screen::panels(const Kernels& kernels, const float* products, int vocab_size, int wanted,
                                const float* hidden, const Inputs& bytes, int r) const {
  const int8_t* row = reinterpret_cast<const int8_t*>(bytes.data + size_t(r) * bytes.stride);
  const float* scales = bytes.scales + size_t(r) * bytes.groups;
  double whole = 0, apart = 0;
  for (int k = 0; k < small_.matrix.K; ++k) {
    const double off = double(hidden[k]) - double(row[k]) * scales[k / GROUP_INT8];
    whole += double(hidden[k]) * hidden[k];
    apart += off * off;
  }
  const float length = float(std::sqrt(whole)), spread = float(std::sqrt(apart)) + ROUNDING * length;
  if (!std::isfinite(length)) return {};
  const int whole_panels = vocab_size / LANES;
  std::vector<float> least(size_t(whole_panels) + LANES), most(least.size());
  kernels.bounds(products, away_.data(), length_.data(), whole_panels, length, spread, least.data(), most.data());
  int count = whole_panels;
  for (int n = whole_panels * LANES; n < vocab_size; ++n, ++count) {  // of a panel that is cut short each by itself
    const float off = away_[n] * length + length_[n] * spread;
    least[count] = products[n] - off;
    most[count] = products[n] + off;
  }
  // What the `wanted` largest have at least: each comes from a number of its own.
  std::vector<float> sure(least.begin(), least.begin() + count);
  const auto last = sure.begin() + std::min(wanted, count) - 1;
  std::nth_element(sure.begin(), last, sure.end(), std::greater<>());
  const float needed = wanted <= count ? *last : -std::numeric_limits<float>::infinity();
  std::vector<int> found;
  for (int p = 0; p < count; ++p) {
    const int panel = std::min(p, whole_panels);
    if (most[p] >= needed && (found.empty() || found.back() != panel)) found.push_back(panel);
  }
  return found;
}

}  // namespace gptwo
