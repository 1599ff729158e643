// The network's weights, and one pass over a batch of tokens.
//
//   M tokens    C width (n_embd)    H heads, D width of a head    L layers    V vocabulary    R rows with logits
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "pack.hpp"
#include "threads.hpp"

namespace gptwo {

struct Shape {
  int vocab_size, n_positions, n_embd, n_layer, n_head, n_inner;
  float layer_norm_epsilon;
  bool scale_attn_by_inverse_layer_idx;

  int head_dim() const { return n_embd / n_head; }
  int head_rows() const { return round_up(3 * head_dim(), LANES); }  // query, key and value of a head, whole panels
};

struct Norm {
  std::vector<float> gain, bias;
};

struct Layer {
  Norm before_attention, before_mlp;
  Packed attention, projection, up, down;
};

// Consecutive tokens of one sequence in a pass.
struct Span {
  const int* tokens;
  int count;
  int position;        // of the first, in the sequence's window
  char* const* pages;  // of the sequence; room for position + count tokens
};

class Network {
 public:
  // Weights are added by name (HF names below "transformer."); `ready` says what is missing, empty when complete.
  Network(Team& team, const Kernels& kernels, const Shape& shape, Precision precision, Precision head, int max_tokens);
  void add(const std::string& name, const Source& source);
  std::string missing() const;

  bool half() const { return precision_ != Precision::fp32; }  // keys and values in bf16
  size_t page_bytes() const { return size_t(shape.n_layer) * shape.n_head * block_bytes(shape.head_dim(), half()); }
  size_t weight_bytes() const;

  // Hidden states after the last layer norm for tokens `rows` of the pass (indices over all spans, ascending):
  // (R, C) in `hidden`. At most max_tokens tokens. Keys and values go to the spans' pages.
  void forward(const std::vector<Span>& spans, const std::vector<int>& rows, float* hidden);

  // Logits of R hidden states; (R, logits_stride).
  void logits(const float* hidden, int R, float* out);
  int logits_stride() const { return round_up(shape.vocab_size, LANES); }

  const Shape shape;
  const int max_tokens;

 private:
  struct Scratch {  // of one thread
    Buffer memory;
    float *heads, *attention, *row;
    Inputs own;  // a few rows that the thread prepares for itself
  };
  Inputs inputs_for(const Inputs& place, const Matrix& w) const;
  Inputs prepared(Worker& worker, const Matrix& w, const float* rows, size_t stride, int M, const Norm* norm);
  void layer(Worker& worker, int index, const std::vector<Span>& spans, int M);
  void attend(Worker& worker, int index, const std::vector<Span>& spans, const Inputs& x, int M);
  void product(Worker& worker, const Matrix& w, const Inputs& x, int M, float* out, size_t stride, Finish how);

  Team& team_;
  const Kernels& kernels_;
  const Precision precision_, head_precision_;
  const int width_, inner_width_;  // n_embd and n_inner, padded
  std::vector<Layer> layers_;
  Norm last_norm_;
  Packed table_, head_;  // token embedding; vocabulary projection where it is another
  std::vector<float> positions_;
  Source pending_[4];  // biases whose matrices come next
  std::vector<std::string> lacking_;
  Buffer residual_, mixed_, inner_, shared_memory_;
  Inputs shared_{};
  std::vector<Scratch> scratch_;
};

}  // namespace gptwo
