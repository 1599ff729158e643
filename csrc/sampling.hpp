// From logits to the next token, by the rules of gptwo/generate/sampling.py.
//
//   logit_bias -> repetition -> presence, frequency -> no_repeat_ngram -> min_new_tokens
//   -> temperature -> top_k -> top_p -> min_p -> draw
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels.hpp"

namespace gptwo {

struct Sampling {
  float temperature = 0;  // 0 is greedy
  int top_k = 0;
  float top_p = 1, min_p = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  int no_repeat_ngram = 0, min_new_tokens = 0;
  std::vector<std::pair<int, float>> logit_bias;
  int end_id = -1;    // held back for min_new_tokens; -1 is none
  int vocab_size = 0;  // ids from here on are never chosen
  uint64_t key = 0;   // of the sequence's random numbers
  bool logprobs = false;
};

struct Choice {
  int token = -1;      // -1: the logits are not numbers
  float logprob = 0;  // under the model itself, where asked for
};

// Memory for one thread's sampling.
struct Bench {
  std::vector<float> weights;
  std::vector<std::pair<float, int>> candidates;
};

// The next token after `history`, whose first `prompt` tokens were given.
// logits: (V) and what pads them to a multiple of 16; they are changed.
Choice choose(const Kernels& kernels, const Sampling& options, float* logits, int V, const std::vector<int>& history,
              int prompt, Bench& bench);

// How many of the largest logits decide on the token; 0: all of them.
int largest_needed(const Sampling& options);

// The step-th random number of a stream in [0, 1), by splitmix64.
double uniform(uint64_t key, uint64_t step);

// log(sum(exp(logits))), and where the largest stands.
double log_total(const Kernels& kernels, const float* logits, int V, int* largest, Bench& bench);

}  // namespace gptwo
