// The projection onto the vocabulary: logits of hidden states, or only the largest of them.
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "network.hpp"

namespace gptwo {
namespace {

constexpr int SCREEN_FROM = 8;  // rows of logits after which a screen is worth its making
constexpr int SCREEN_LEFT = 8;  // screening ends where it leaves more than one in so many panels
constexpr int BLOCK = 2 * LANES;  // outputs of the vocabulary that are computed again together, in int4
constexpr int LIKELY = 32;        // such blocks of a row

// Row r alone.
Inputs row_of(const Inputs& x, int r) {
  Inputs one = x;
  one.data += size_t(r) * x.stride;
  one.scales += size_t(r) * x.groups;
  one.sums += size_t(r) * x.groups;
  return one;
}

// Row r in float32 as products see it.
void read_row(Precision precision, const Inputs& x, int r, int K, float* row) {
  const char* from = x.data + size_t(r) * x.stride;
  for (int k = 0; k < K; ++k) {
    uint32_t bits;
    if (precision == Precision::bf16) {
      uint16_t half;
      std::memcpy(&half, from + 2 * k, 2);
      bits = uint32_t(half) << 16;
    } else {
      std::memcpy(&bits, from + 4 * k, 4);
    }
    std::memcpy(row + k, &bits, 4);
  }
}

}  // namespace

// Hidden states in the form that products with `w` take, in `x`.
void Network::prepare_hidden(Worker& worker, const Matrix& w, const float* hidden, int R, const Inputs& x) {
  float* row = scratch_[worker.index()].row;
  for (int r = worker.index(); r < R; r += worker.threads()) {
    std::copy_n(hidden + size_t(r) * shape.n_embd, shape.n_embd, row);
    std::fill(row + shape.n_embd, row + width_, 0.0f);
    kernels_.prepare(w.precision, row, shape.n_embd, x, r);
  }
}

// Hidden states in the form that the projection takes. Ends in a barrier.
Inputs Network::head_inputs(Worker& worker, const float* hidden, int R) {
  const Inputs x = inputs_for(shared_, head().matrix);
  prepare_hidden(worker, head().matrix, hidden, R, x);
  worker.barrier();
  return x;
}

void Network::logits(const float* hidden, int R, float* out) {
  if (rough()) {
    largest_.resize(size_t(R) * blocks());
    likely_.resize(size_t(R) * LIKELY);
  }
  team_.run([&](Worker& worker) {
    if (rough()) roughly(worker, hidden, R, out);
    const Inputs x = head_inputs(worker, hidden, R);
    if (rough())
      again(worker, x, R, out);
    else
      product(worker, head().matrix, x, R, out, size_t(logits_stride()), Finish::store);
  });
}

int Network::blocks() const { return (shape.vocab_size + BLOCK - 1) / BLOCK; }

// Logits from four bits, and the largest of each block.
void Network::roughly(Worker& worker, const float* hidden, int R, float* out) {
  const Inputs x = inputs_for(second_, rough_.matrix);
  prepare_hidden(worker, rough_.matrix, hidden, R, x);
  worker.barrier(first_read(worker, rough_.matrix));
  const size_t stride = size_t(logits_stride());
  const int panels = rough_.matrix.panels, all = blocks();
  for (auto piece = worker.take_part(panels, ABREAST); piece.begin < piece.end;
       piece = worker.take_part(panels, ABREAST)) {
    kernels_.product(rough_.matrix, x, R, piece.begin, piece.end, out + size_t(piece.begin) * LANES, stride,
                     Finish::store);
    for (int r = 0; r < R; ++r)
      for (int n = piece.begin * LANES; n < std::min(piece.end * LANES, shape.vocab_size); n += BLOCK) {
        const float* numbers = out + r * stride + n;
        const int at = kernels_.first_largest(numbers, std::min(BLOCK, shape.vocab_size - n));
        // What is no number stays none.
        largest_[size_t(r) * all + n / BLOCK] = at < 0 ? std::numeric_limits<float>::infinity() : numbers[at];
      }
  }
}

// The likeliest blocks of logits again, from eight bits: of each row those with the largest numbers.
void Network::again(Worker& worker, const Inputs& x, int R, float* out) {
  const Matrix& w = head().matrix;
  const int all = blocks(), likely = std::min(LIKELY, all);
  const size_t stride = size_t(logits_stride());
  for (auto piece = worker.take(R, 1); piece.begin < piece.end; piece = worker.take(R, 1)) {
    const float* largest = largest_.data() + size_t(piece.begin) * all;
    std::vector<float> sorted(largest, largest + all);
    std::nth_element(sorted.begin(), sorted.begin() + (likely - 1), sorted.end(), std::greater<>());
    int* found = likely_.data() + size_t(piece.begin) * LIKELY;
    const int* end = found + likely;
    for (int block = 0; block < all; ++block)
      if (largest[block] > sorted[likely - 1]) *found++ = block;
    for (int block = 0; found < end; ++block)
      if (largest[block] == sorted[likely - 1]) *found++ = block;
  }
  worker.barrier();
  for (auto piece = worker.take(R * likely, 8); piece.begin < piece.end; piece = worker.take(R * likely, 8))
    for (int i = piece.begin; i < piece.end; ++i) {
      const int r = i / likely, panel = likely_[size_t(r) * LIKELY + i % likely] * (BLOCK / LANES);
      kernels_.product(w, row_of(x, r), 1, panel, std::min(panel + BLOCK / LANES, w.panels),
                       out + r * stride + panel * LANES, stride, Finish::store);
    }
}

// Is there a screen, or is it time to make one? Not for a word or two, not for weights of few bytes, and no longer where
// it leaves too much.
bool Network::screening() {
  const Matrix& w = head().matrix;
  if (w.precision == Precision::int8 || w.precision == Precision::int4) return false;
  if (screened_ > 64 && left_ > screened_ * size_t(w.panels) / SCREEN_LEFT) return false;
  if (!screen_ && ++asked_ > SCREEN_FROM) {
    screen_ = Screen(team_, head());
    screen_memory_ = Buffer(carved_bytes(max_tokens, width_));
  }
  return bool(screen_);
}

void Network::largest(const float* hidden, int R, const std::vector<Wanted>& wanted, float* out) {
  if (!screening()) return logits(hidden, R, out);
  const Matrix& w = head().matrix;
  const int C = shape.n_embd, stride = logits_stride();
  const Inputs rough = inputs_for(carve(screen_memory_.as<char>(), max_tokens, width_), screen_.matrix());
  team_.run([&](Worker& worker) {
    const Inputs x = head_inputs(worker, hidden, R);
    float* row = scratch_[worker.index()].row;
    std::fill(row + C, row + width_, 0.0f);
    for (int r = worker.index(); r < R; r += worker.threads()) {
      read_row(w.precision, x, r, C, row);
      kernels_.prepare(Precision::int8, row, C, rough, r);
    }
    worker.barrier();
    product(worker, screen_.matrix(), rough, R, out, size_t(stride), Finish::store);
    worker.barrier();
    for (auto piece = worker.take(R, 1); piece.begin < piece.end; piece = worker.take(R, 1)) {
      const int r = piece.begin;
      float* line = out + size_t(r) * stride;
      read_row(w.precision, x, r, C, row);
      std::vector<int> panels = screen_.panels(kernels_, line, wanted[r].vocab_size, wanted[r].count, row, rough, r);
      left_ += panels.size();
      ++screened_;
      std::fill(line, line + stride, -std::numeric_limits<float>::infinity());
      const Inputs one{x.data + size_t(r) * x.stride, x.stride, nullptr, nullptr, 0};
      for (int p : panels) kernels_.product(w, one, 1, p, p + 1, line + p * LANES, size_t(stride), Finish::store);
      if (panels.empty()) kernels_.product(w, one, 1, 0, w.panels, line, size_t(stride), Finish::store);
    }
  });
}

}  // namespace gptwo
