// The network's weights, and one pass over a batch of tokens.
//
//   M tokens    C width (n_embd)    H heads, D width of a head    L layers    V vocabulary    R rows with logits
#pragma once

#include <array>
#include <functional>
#include <map>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "pack.hpp"
#include "screen.hpp"
#include "threads.hpp"

namespace gptwo {

struct Shape {
  int vocab_size, n_positions, n_embd, n_layer, n_head, n_inner;
  float layer_norm_epsilon;
  bool scale_attn_by_inverse_layer_idx;

  int head_dim() const { return n_embd / n_head; }
  // A head's query and key, and behind them its value, each in whole panels.
  int value_at() const { return round_up(2 * head_dim(), LANES); }
  int head_rows() const { return value_at() + round_up(head_dim(), LANES); }
};

struct Norm {
  std::vector<float> gain, bias;
};

struct Layer {
  Norm before_attention, before_mlp;
  Packed queries_keys, values, projection, up, down;
};

// A part of the packed weights as a packed file has it: its name, type (of safetensors) and shape, and where it lies.
struct Piece {
  std::string name;
  const char* type;
  std::vector<size_t> shape;
  char* data;
  size_t bytes;
};

// Where an adapter adds something to a block: beside a matrix (LoRA); beside the MLP, reading what it reads; behind
// attention or MLP, reading what they give (bottlenecks).
enum class Place : int { attention, projection, up, down, beside_mlp, behind_attention, behind_mlp };

// up(bend(down(x))) with R numbers in the middle, in float32.
struct Branch {
  Packed down, up;
  Bend bend = Bend::none;
};

// What one adapter adds to the network, and the keys and values that its sequences begin with.
struct Adapter {
  Arena arena;  // of the branches
  std::vector<std::array<Branch, 7>> layers;  // by place
  int before = 0;                             // tokens of the beginning
  std::vector<float> keys, values;            // (L, H, before, D)

  // The branch at a place, nullptr where there is none.
  const Branch* at(int layer, Place place) const {
    const Branch& branch = layers[layer][size_t(place)];
    return branch.down.matrix.panels ? &branch : nullptr;
  }
};

// Neighbouring rows of a pass that go through the same adapter.
struct Run {
  const Adapter* adapter;
  int begin, count;
};

// Rows that a part of the network works on; those in no run go through no adapter.
struct Rows {
  int count;
  std::vector<Run> runs;
};

Rows rows_of(const std::vector<const Adapter*>& adapters);  // of each row, nullptr for none

// Consecutive tokens of one sequence in a pass.
struct Span {
  const int* tokens;
  int count;
  int position;        // of the first
  char* const* pages;  // of the sequence; room for position + count tokens
  const Adapter* adapter = nullptr;
};

// A place for rows of K numbers in every precision, with their scales and sums, in memory for `rows` of them.
Inputs carve(char* memory, int rows, int K);
size_t carved_bytes(int rows, int K);

class Network {
 public:
  // Weights are added by name (HF names below "transformer."); `ready` says what is missing, empty when complete.
  Network(Team& team, const Kernels& kernels, const Shape& shape, Precision precision, Precision head, Precision cache,
          int max_tokens);
  void add(const std::string& name, const Source& source);
  std::string missing() const;

  // Weights that were packed before (packed.cpp). `make_room` in the place of `add`, then `read`; `own_head`: the
  // vocabulary projection is not the token embedding.
  void make_room(bool own_head);
  // All of them, in the order of a packed file, which has nothing between them.
  std::vector<Piece> pieces();
  uint64_t checksum();
  // Fill them from a file, the first at byte `start`; returns the checksum of what was read. Throws
  // std::system_error, ENODATA where the file ends too soon.
  uint64_t read(int file, int64_t start);

  // Adapters that sequences may go through, by numbers from 1 on. A branch is given as (R, inputs) and (outputs, R),
  // its biases empty where it has none.
  int add_adapter();
  void add_branch(int adapter, int layer, Place place, Bend bend, int R, const Source& down, const Source& down_bias,
                  const Source& up, const Source& up_bias);
  void begin_with(int adapter, int tokens, const float* keys, const float* values);  // (L, H, tokens, D) each
  void drop_adapter(int adapter);
  const Adapter* adapter(int number) const;  // nullptr for 0
  // Put the keys and values that an adapter begins with into a sequence's first pages.
  void begin(const Adapter& adapter, char* const* pages) const;

  size_t page_bytes() const { return size_t(shape.n_layer) * shape.n_head * block_bytes(shape.head_dim(), cache_); }
  size_t weight_bytes() const;
  // Read all that a step reads of the weights, on all threads, and do nothing with it; returns how many bytes that are.
  // A step that reads every weight takes at least as long.
  size_t read_through();

  // Hidden states after the last layer norm for tokens `rows` of the pass (indices over all spans, ascending):
  // (R, C) in `hidden`. At most max_tokens tokens. Keys and values go to the spans' pages.
  void forward(const std::vector<Span>& spans, const std::vector<int>& rows, float* hidden);

  // Logits of R hidden states; (R, logits_stride).
  void logits(const float* hidden, int R, float* out);
  // The same where only the `wanted` largest of the first `vocab_size` matter to a row: the others may be -infinity.
  struct Wanted {
    int count, vocab_size;
  };
  void largest(const float* hidden, int R, const std::vector<Wanted>& wanted, float* out);
  size_t screened() const { return screened_; }  // rows of `largest` that a screen was used for
  size_t screened_panels() const { return left_; }  // panels of theirs that had to be computed exactly
  int logits_stride() const { return round_up(shape.vocab_size, LANES); }

  const Shape shape;
  const int max_tokens;

 private:
  struct Scratch {  // of one thread
    Buffer memory;
    float *heads, *attention, *row;
    Inputs own, second;  // a few rows that the thread prepares for itself; in another form
  };
  // Values lose more by four bits than all else: on gptwo-mini they alone would cost 0.7 % of perplexity.
  Precision value_precision() const { return precision_ == Precision::int4 ? Precision::int8 : precision_; }
  // In int4 the vocabulary is read in four bits, and the likeliest tokens again in eight, as the embedding has them.
  bool rough() const { return precision_ == Precision::int4; }
  uint64_t visit(const std::function<int(char*, size_t, int64_t)>& before);
  Inputs inputs_for(const Inputs& place, const Matrix& w) const;
  Inputs prepared(Worker& worker, const Matrix& w, const float* rows, size_t stride, int M, const Norm* norm,
                  const Matrix* also = nullptr);
  Inputs second_inputs(const Worker& worker, const Matrix& w, int M) const;
  void attention(Worker& worker, int index, const std::vector<Span>& spans, const Rows& all);
  void rest(Worker& worker, int index, const Rows& all);
  void attend(Worker& worker, int index, const std::vector<Span>& spans, const Inputs& x, const Inputs& for_values,
              const Rows& all);
  const Packed& head() const { return head_.matrix.panels ? head_ : table_; }
  bool screening();
  void prepare_hidden(Worker& worker, const Matrix& w, const float* hidden, int R, const Inputs& x);
  Inputs head_inputs(Worker& worker, const float* hidden, int R);
  void roughly(Worker& worker, const float* hidden, int R, float* out);
  void again(Worker& worker, const Inputs& x, int R, float* out);
  int blocks() const;
  void product(Worker& worker, const Matrix& w, const Inputs& x, int M, float* out, size_t stride, Finish how);
  Region first_read(const Worker& worker, const Matrix& w) const;
  Region first_read_heads(const Worker& worker, const Matrix& w) const;
  int by_head(int head, int row) const;
  void gather(Worker& worker, const std::vector<int>& rows);
  // Of adapters (adapters.cpp):
  void adapted_product(Worker& worker, int index, Place place, const Matrix& w, const Inputs& x, const Rows& all,
                       float* out, size_t stride, Finish how);
  void lower(Worker& worker, int index, Place place, const Rows& all, const float* rows, size_t stride,
             const Norm* norm);
  void raise(int index, Place place, const Run& run, int begin, int end, float* out, size_t stride);
  void behind(Worker& worker, int index, Place place, const Rows& all);
  void middle(const Branch& branch, const float* rows, size_t stride, int count, float* out);

  Team& team_;
  const Kernels& kernels_;
  const Precision precision_, head_precision_, cache_;
  const int width_, inner_width_;  // n_embd and n_inner, padded
  Arena arena_;  // of the weights
  std::vector<Layer> layers_;
  Norm last_norm_;
  Packed table_, head_;  // token embedding; vocabulary projection where it is another
  Packed rough_;         // the projection in four bits, in int4
  Screen screen_;
  int asked_ = 0;               // rows for which the largest logits would do, before there was a screen
  std::atomic<size_t> left_{0}, screened_{0};  // panels that were left, and rows
  std::vector<float> positions_;
  Source pending_[4];  // biases whose matrices come next
  std::vector<std::string> lacking_;
  Buffer residual_, mixed_, inner_, shared_memory_, screen_memory_;
  std::vector<float> largest_;  // (R, blocks) of the logits from four bits
  std::vector<int> likely_;     // (R, LIKELY) blocks that are computed again
  Inputs shared_{}, second_{};
  std::vector<Scratch> scratch_;
  std::map<int, Adapter> adapters_;
  int last_adapter_ = 0, low_stride_ = 0;
  Buffer low_, given_, plain_;  // of all rows: middles of branches, what parts give, normed rows; without adapters empty
};

}  // namespace gptwo
