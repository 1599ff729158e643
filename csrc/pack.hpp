// Weights as they lie in a model's files, to packed matrices.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "threads.hpp"

namespace gptwo {

enum class Stored : int { fp32 = 0, bf16 = 1, fp16 = 2 };

// A matrix or vector in a file: element (n, k) stands at n * row_step + k * column_step.
struct Source {
  const void* data = nullptr;
  Stored type = Stored::fp32;
  int64_t row_step = 0, column_step = 1;

  float at(int64_t n, int64_t k) const;
};

// A Matrix and how its rows are read back. The memory is an Arena's.
struct Packed {
  Matrix matrix{};

  // Row n in float32 (K numbers): the embedding of a token.
  void row(int n, float* out) const;
};

// Zeroed room for N outputs of K inputs.
Packed room(Arena& arena, Precision precision, int N, int K);

// Pack N outputs of K inputs; row(n) is the source's row of output n, or -1 for an output of zeros. `usual` (K), where it
// is known, are the inputs' means: what four bits make of an output for these is given back by its bias.
Packed pack(Team& team, Arena& arena, Precision precision, const Source& weights, const Source* bias, int N, int K,
            const std::function<int(int)>& row, const float* usual = nullptr);

// The same from a function that gives the K weights of output n; biases are zeros.
Packed pack(Team& team, Arena& arena, Precision precision, int N, int K,
            const std::function<void(int n, float* weights)>& read);

std::vector<float> read_vector(const Source& source, int count);

}  // namespace gptwo
