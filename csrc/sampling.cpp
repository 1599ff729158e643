#include "sampling.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace gptwo {
namespace {

constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();
constexpr float FLOORS[] = {1e-2f, 1e-4f, 1e-6f, 0.0f};  // shares of the likeliest token's weight
constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15ull;

uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return x ^ x >> 31;
}

bool constrains(const Sampling& o) {
  return !o.logit_bias.empty() || o.repetition_penalty != 1 || o.presence_penalty || o.frequency_penalty ||
         o.no_repeat_ngram || o.min_new_tokens;
}

// Bias, penalties and bans.
void constrain(const Sampling& options, float* logits, int V, const std::vector<int>& history, int prompt) {
  for (const auto& [token, bias] : options.logit_bias)
    if (token < V) logits[token] += bias;
  const auto each_once = [&](size_t from, const std::function<void(int, int)>& change) {
    std::vector<int> tokens(history.begin() + from, history.end());
    std::sort(tokens.begin(), tokens.end());
    for (size_t i = 0; i < tokens.size();) {
      size_t end = i;
      while (end < tokens.size() && tokens[end] == tokens[i]) ++end;
      if (tokens[i] >= 0 && tokens[i] < V) change(tokens[i], int(end - i));
      i = end;
    }
  };
  if (options.repetition_penalty != 1)
    each_once(0, [&](int token, int) {
      float& logit = logits[token];
      logit = logit < 0 ? logit * options.repetition_penalty : logit / options.repetition_penalty;
    });
  if (options.presence_penalty || options.frequency_penalty)
    each_once(size_t(prompt), [&](int token, int count) {
      logits[token] = logits[token] - options.presence_penalty - options.frequency_penalty * float(count);
    });

  std::vector<std::pair<int, float>> banned;  // and what they were
  const auto ban = [&](int token) {
    if (token < 0 || token >= V) return;
    banned.emplace_back(token, logits[token]);
    logits[token] = MINUS_INFINITY;
  };
  const size_t n = size_t(options.no_repeat_ngram), length = history.size();
  if (n && length >= n)
    for (size_t i = 0; i + n <= length; ++i)
      if (std::equal(history.begin() + i, history.begin() + i + n - 1, history.end() - (n - 1)))
        ban(history[i + n - 1]);
  if (int(length) - prompt < options.min_new_tokens && options.end_id >= 0) ban(options.end_id);
  if (!banned.empty() && *std::max_element(logits, logits + V) == MINUS_INFINITY)
    for (auto one = banned.rbegin(); one != banned.rend(); ++one) logits[one->first] = one->second;
}

// The smallest logit that stays by top_k, top_p and min_p. `weights` is exp((logit - largest) / temperature).
float threshold(const Sampling& options, const float* logits, const float* weights, int V, float top, Bench& bench) {
  float lowest = MINUS_INFINITY;
  auto& found = bench.candidates;
  // Tokens that stay so far and weigh at least `floor`: few of them matter as a rule, so that only those are sorted.
  const auto gather = [&](float floor) {
    found.clear();
    for (int i = 0; i < V; ++i)
      if (weights[i] >= floor && logits[i] >= lowest && logits[i] != MINUS_INFINITY) found.emplace_back(logits[i], i);
  };
  if (options.top_k && options.top_k < V) {
    for (float floor : FLOORS) {
      gather(floor);
      if (found.size() < size_t(options.top_k)) continue;
      const auto kth = found.begin() + (options.top_k - 1);
      std::nth_element(found.begin(), kth, found.end(), std::greater<>());
      lowest = kth->first;
      break;
    }
  }
  if (options.top_p < 1) {
    double total = 0;
    for (int i = 0; i < V; ++i) total += logits[i] >= lowest ? weights[i] : 0.0f;
    for (float floor : FLOORS) {
      gather(floor);
      std::sort(found.begin(), found.end(), std::greater<>());
      double before = 0;
      size_t inside = 0;
      while (inside < found.size() && (inside == 0 || before < double(options.top_p) * total))
        before += weights[found[inside++].second];
      if (inside < found.size() || floor == 0.0f) {
        if (inside) lowest = found[inside - 1].first;
        break;
      }
    }
  }
  if (options.min_p > 0) {
    float least = top;
    for (int i = 0; i < V; ++i)
      if (weights[i] >= options.min_p && logits[i] < least) least = logits[i];
    lowest = std::max(lowest, least);
  }
  return lowest;
}

}  // namespace

int largest_needed(const Sampling& o) {
  if (o.logprobs || constrains(o)) return 0;
  constexpr int FEW = 128;
  return o.temperature == 0 ? 1 : o.top_k <= FEW ? o.top_k : 0;
}

double uniform(uint64_t key, uint64_t step) { return double(mix(key + (step + 1) * GOLDEN) >> 11) * 0x1p-53; }

double log_total(const Kernels& kernels, const float* logits, int V, int* largest, Bench& bench) {
  *largest = kernels.first_largest(logits, V);
  if (*largest < 0) return std::numeric_limits<double>::quiet_NaN();
  bench.weights.resize(size_t(round_up(V, LANES)));
  kernels.exponentials(logits, round_up(V, LANES), logits[*largest], 1.0f, bench.weights.data());
  double total = 0;
  for (int i = 0; i < V; ++i) total += bench.weights[i];
  return double(logits[*largest]) + std::log(total);
}

Choice choose(const Kernels& kernels, const Sampling& options, float* logits, int V, const std::vector<int>& history,
              int prompt, Bench& bench) {
  V = std::min(V, options.vocab_size);
  Choice choice;
  std::vector<float> raw;
  double total = 0;
  if (options.logprobs) {
    int largest;
    total = log_total(kernels, logits, V, &largest, bench);
    if (largest < 0) return choice;
    raw.assign(logits, logits + V);
  }
  int likeliest = kernels.first_largest(logits, V);
  if (likeliest < 0) return choice;
  if (constrains(options)) {
    constrain(options, logits, V, history, prompt);
    likeliest = kernels.first_largest(logits, V);
  }
  if (likeliest < 0) return choice;
  if (options.temperature == 0) {
    choice.token = likeliest;
  } else {
    const float top = logits[likeliest];
    bench.weights.resize(size_t(round_up(V, LANES)));
    float* weights = bench.weights.data();
    kernels.exponentials(logits, round_up(V, LANES), top, 1.0f / options.temperature, weights);
    const float lowest = threshold(options, logits, weights, V, top, bench);
    // Invert the cumulative distribution in the order of the ids: first the block, then the token in it.
    constexpr int BLOCK = 64;
    const auto weight = [&](int i) { return logits[i] >= lowest ? double(weights[i]) : 0.0; };
    std::vector<double> ends;
    double sum = 0;
    for (int start = 0; start < V; start += BLOCK) {
      double block = 0;
      for (int i = start; i < std::min(V, start + BLOCK); ++i) block += weight(i);
      ends.push_back(sum += block);
    }
    const double target = uniform(options.key, uint64_t(int(history.size()) - prompt)) * sum;
    int at = int(std::upper_bound(ends.begin(), ends.end(), target) - ends.begin());
    at = std::min(at, int(ends.size()) - 1);
    double before = at ? ends[at - 1] : 0;
    int last = likeliest;
    choice.token = -1;
    for (int i = at * BLOCK; i < std::min(V, (at + 1) * BLOCK); ++i) {
      if (weight(i) == 0) continue;
      last = i;
      before += weight(i);
      if (before > target) {
        choice.token = i;
        break;
      }
    }
    if (choice.token < 0) choice.token = last;  // rounding at a block's border
  }
  if (options.logprobs) choice.logprob = float(double(raw[choice.token]) - total);
  return choice;
}

}  // namespace gptwo
