#include "network.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace gptwo {
namespace {

constexpr int OWN_ROWS = 8;  // up to so many rows every thread prepares for itself: cheaper than a barrier
// Bytes of weights that are asked for: the next head's before attention, the values' before queries and keys, what
// comes next while a thread waits.
constexpr size_t BEFORE_ATTENTION = 1 << 14, BEFORE_VALUES = 1 << 13, WHILE_WAITING = 1 << 16;

// Ask for memory that is needed soon, into the second cache.
void ask(const char* begin, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(begin + i, 0, 2);
}

size_t input_stride(int K) { return size_t(round_up(K, 64)) * 4; }  // of the widest form

}  // namespace

Inputs carve(char* memory, int rows, int K) {
  const size_t groups = size_t(rows) * ((K + GROUP_INT4 - 1) / GROUP_INT4);
  Inputs x{};
  x.data = memory;
  x.stride = input_stride(K);
  x.scales = reinterpret_cast<float*>(memory + rows * x.stride);
  x.sums = reinterpret_cast<int32_t*>(x.scales + groups);
  return x;
}

size_t carved_bytes(int rows, int K) {
  return rows * input_stride(K) + size_t(rows) * ((K + GROUP_INT4 - 1) / GROUP_INT4) * 8;
}

Network::Network(Team& team, const Kernels& kernels, const Shape& shape, Precision precision, Precision head,
                 Precision cache, int max_tokens)
    : shape(shape), max_tokens(max_tokens), team_(team), kernels_(kernels), precision_(precision),
      head_precision_(head), cache_(cache), width_(round_up(shape.n_embd, ROW_ALIGNMENT)),
      inner_width_(round_up(shape.n_inner, ROW_ALIGNMENT)), layers_(shape.n_layer) {
  const int widest = std::max(width_, inner_width_);
  residual_ = Buffer(size_t(max_tokens) * width_ * 4);
  mixed_ = Buffer(size_t(max_tokens) * width_ * 4);
  inner_ = Buffer(size_t(max_tokens) * inner_width_ * 4);
  const size_t shared = carved_bytes(max_tokens, widest), own = carved_bytes(OWN_ROWS, widest);
  const bool two = value_precision() != precision;
  shared_memory_ = Buffer(two ? 2 * shared : shared);
  shared_ = second_ = carve(shared_memory_.as<char>(), max_tokens, widest);
  if (two) second_ = carve(shared_memory_.as<char>() + shared, max_tokens, widest);
  const size_t heads = size_t(max_tokens) * shape.head_rows();
  const size_t attention = attention_scratch(shape.n_positions, shape.head_dim());
  for (int i = 0; i < team.threads(); ++i) {
    Scratch scratch;
    scratch.memory = Buffer((heads + attention + widest) * 4 + 256 + (two ? 2 * own : own));
    scratch.heads = scratch.memory.as<float>();
    scratch.attention = scratch.heads + heads;
    scratch.row = scratch.attention + attention;
    const size_t at = ((heads + attention + widest) * 4 + 63) / 64 * 64;
    scratch.own = scratch.second = carve(scratch.memory.as<char>() + at, OWN_ROWS, widest);
    if (two) scratch.second = carve(scratch.memory.as<char>() + at + own, OWN_ROWS, widest);
    scratch_.push_back(std::move(scratch));
  }
  lacking_ = {"wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"};
  for (int i = 0; i < shape.n_layer; ++i)
    for (const char* part : {"ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"})
      for (const char* kind : {"bias", "weight"})
        lacking_.push_back("h." + std::to_string(i) + "." + part + "." + kind);
}

std::string Network::missing() const {
  std::string all;
  for (const std::string& name : lacking_) all += (all.empty() ? "" : ", ") + name;
  return all;
}

void Network::forward(const std::vector<Span>& spans, const std::vector<int>& rows, float* hidden) {
  std::vector<const Adapter*> adapters, wanted_adapters;
  for (const Span& span : spans) adapters.insert(adapters.end(), size_t(span.count), span.adapter);
  for (int row : rows) wanted_adapters.push_back(adapters[row]);
  const Rows all = rows_of(adapters), wanted = rows_of(wanted_adapters);
  team_.run([&](Worker& worker) {
    const int C = shape.n_embd, threads = worker.threads();
    int m = 0;
    for (const Span& span : spans)
      for (int i = 0; i < span.count; ++i, ++m) {
        if (m % threads != worker.index()) continue;
        float* x = residual_.as<float>() + size_t(m) * width_;
        table_.row(span.tokens[i], x);
        const float* place = positions_.data() + size_t(span.position + i) * C;
        for (int c = 0; c < C; ++c) x[c] += place[c];
      }
    worker.barrier();
    for (int index = 0; index + 1 < shape.n_layer; ++index) {
      attention(worker, index, spans, all);
      rest(worker, index, all);
    }
    // Behind the last attention, only the rows that are asked for go on.
    attention(worker, shape.n_layer - 1, spans, all);
    if (wanted.count < all.count) gather(worker, rows);
    rest(worker, shape.n_layer - 1, wanted);
    for (int r = worker.index(); r < wanted.count; r += threads) {
      const float* x = residual_.as<float>() + size_t(r) * width_;
      kernels_.normalise(x, last_norm_.gain.data(), last_norm_.bias.data(), C, shape.layer_norm_epsilon,
                         hidden + size_t(r) * C);
    }
  });
}

void Network::attention(Worker& worker, int index, const std::vector<Span>& spans, const Rows& all) {
  const Layer& layer = layers_[index];
  const float* residual = residual_.as<float>();
  const Matrix &w = layer.queries_keys.matrix, &values = layer.values.matrix;
  const bool two = values.precision != w.precision;
  const Inputs x =
      prepared(worker, w, residual, width_, all.count, &layer.before_attention, two ? &values : nullptr);
  const Inputs for_values = two ? second_inputs(worker, values, all.count) : x;
  lower(worker, index, Place::attention, all, residual, width_, &layer.before_attention);
  attend(worker, index, spans, x, for_values, all);
  worker.barrier(first_read(worker, layer.projection.matrix));
}

void Network::rest(Worker& worker, int index, const Rows& all) {
  if (!all.count) return;
  const Layer& layer = layers_[index];
  float* residual = residual_.as<float>();
  float* mixed = mixed_.as<float>();
  float* inner = inner_.as<float>();

  Inputs x = prepared(worker, layer.projection.matrix, mixed, width_, all.count, nullptr);
  lower(worker, index, Place::projection, all, mixed, width_, nullptr);
  adapted_product(worker, index, Place::projection, layer.projection.matrix, x, all, residual, width_, Finish::add);
  worker.barrier(first_read(worker, layer.up.matrix));
  behind(worker, index, Place::behind_attention, all);
  x = prepared(worker, layer.up.matrix, residual, width_, all.count, &layer.before_mlp);
  lower(worker, index, Place::up, all, residual, width_, &layer.before_mlp);
  adapted_product(worker, index, Place::up, layer.up.matrix, x, all, inner, inner_width_, Finish::gelu);
  lower(worker, index, Place::beside_mlp, all, residual, width_, &layer.before_mlp);
  worker.barrier(first_read(worker, layer.down.matrix));
  x = prepared(worker, layer.down.matrix, inner, inner_width_, all.count, nullptr);
  lower(worker, index, Place::down, all, inner, inner_width_, nullptr);
  adapted_product(worker, index, Place::down, layer.down.matrix, x, all, residual, width_, Finish::add);
  worker.barrier(index + 1 < shape.n_layer ? first_read_heads(worker, layers_[index + 1].queries_keys.matrix)
                                           : first_read(worker, head().matrix));
  behind(worker, index, Place::behind_mlp, all);
}

// Move the rows that go on to the front. Each thread has columns of its own.
void Network::gather(Worker& worker, const std::vector<int>& rows) {
  const int even = round_up((width_ + worker.threads() - 1) / worker.threads(), LANES);
  const int begin = std::min(width_, even * worker.index()), count = std::min(width_, begin + even) - begin;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r] == int(r)) continue;
    for (float* all : {residual_.as<float>(), mixed_.as<float>()})
      std::copy_n(all + size_t(rows[r]) * width_ + begin, count, all + r * width_ + begin);
  }
  worker.barrier();
}

Inputs Network::inputs_for(const Inputs& place, const Matrix& w) const {
  Inputs x = place;
  x.groups = input_groups(w.precision, w.K);
  return x;
}

// Rows, through a layer norm where there is one, in the form that products with `w` take. Few rows every thread
// prepares for itself; many are shared out, which ends in a barrier. `also`: a matrix that takes them in another form,
// which then lies in `second_inputs`.
Inputs Network::prepared(Worker& worker, const Matrix& w, const float* rows, size_t stride, int M, const Norm* norm,
                         const Matrix* also) {
  if (!norm && w.precision == Precision::fp32) {
    Inputs x{};
    x.data = reinterpret_cast<char*>(const_cast<float*>(rows));
    x.stride = stride * 4;
    return x;
  }
  Scratch& scratch = scratch_[worker.index()];
  const bool own = M <= OWN_ROWS;
  const Inputs x = inputs_for(own ? scratch.own : shared_, w);
  const auto prepare = [&](int m) {
    const float* row = rows + size_t(m) * stride;
    if (norm) {
      kernels_.normalise(row, norm->gain.data(), norm->bias.data(), w.K, shape.layer_norm_epsilon, scratch.row);
      std::fill(scratch.row + w.K, scratch.row + round_up(w.K, ROW_ALIGNMENT), 0.0f);
      row = scratch.row;
    }
    kernels_.prepare(w.precision, row, w.K, x, m);
    if (also) kernels_.prepare(also->precision, row, also->K, second_inputs(worker, *also, M), m);
  };
  if (own) {
    for (int m = 0; m < M; ++m) prepare(m);
  } else {
    for (auto piece = worker.take(M, 4); piece.begin < piece.end; piece = worker.take(M, 4))
      for (int m = piece.begin; m < piece.end; ++m) prepare(m);
    worker.barrier();
  }
  return x;
}

Inputs Network::second_inputs(const Worker& worker, const Matrix& w, int M) const {
  return inputs_for(M <= OWN_ROWS ? scratch_[worker.index()].second : second_, w);
}

// Each head whole on one thread: its queries, keys and values, then its attention, without a barrier between.
void Network::attend(Worker& worker, int index, const std::vector<Span>& spans, const Inputs& x,
                     const Inputs& for_values, const Rows& all) {
  const int H = shape.n_head, D = shape.head_dim(), rows = shape.head_rows(), value_at = shape.value_at();
  const int all_panels = rows / LANES, panels = value_at / LANES, value_panels = all_panels - panels;
  const Matrix &w = layers_[index].queries_keys.matrix, &values = layers_[index].values.matrix;
  Scratch& scratch = scratch_[worker.index()];
  float scale = 1.0f / std::sqrt(float(D));
  if (shape.scale_attn_by_inverse_layer_idx) scale /= float(index + 1);
  for (Worker::Piece piece = worker.take_part(H, 1); piece.begin < piece.end;) {
    const int head = piece.begin++;
    const size_t bytes = block_bytes(D, cache_), offset = (size_t(index) * H + head) * bytes;
    const auto expect = [&](const Span& span) { ask(span.pages[span.position / PAGE] + offset, bytes); };
    if (!spans.empty()) expect(spans[0]);
    ask(values.data + size_t(head * value_panels) * values.panel_bytes, BEFORE_VALUES);
    kernels_.product(w, x, all.count, head * panels, (head + 1) * panels, scratch.heads, rows, Finish::store);
    kernels_.product(values, for_values, all.count, head * value_panels, (head + 1) * value_panels,
                     scratch.heads + value_at, rows, Finish::store);
    if (piece.begin == piece.end) piece = worker.take_part(H, 1);
    if (piece.begin < piece.end) ask(w.data + size_t(piece.begin * panels) * w.panel_bytes, BEFORE_ATTENTION);
    for (const Run& run : all.runs)
      raise(index, Place::attention, run, head * all_panels, (head + 1) * all_panels, scratch.heads, size_t(rows));
    const float* line = scratch.heads;  // (M, rows): query and key, value
    float* out = mixed_.as<float>() + head * D;
    for (size_t s = 0; s < spans.size(); ++s) {
      const Span& span = spans[s];
      for (int i = 0; i < span.count; ++i) {
        const int token = span.position + i;
        const float* query = line + size_t(i) * rows;
        kernels_.remember(span.pages[token / PAGE] + offset, token % PAGE, query + D, query + value_at, D, cache_);
      }
      const Span* next = s + 1 < spans.size() ? &spans[s + 1] : nullptr;
      if (next) expect(*next);
      kernels_.attend({line, size_t(rows), out, size_t(width_), span.count, span.position, span.pages, offset, D, scale,
                       scratch.attention, cache_, next ? next->pages : nullptr,
                       next ? (next->position + next->count + PAGE - 1) / PAGE : 0});
      line += size_t(span.count) * rows;
      out += size_t(span.count) * width_;
    }
  }
}

// What a thread reads first in the next stage.
Region Network::first_read(const Worker& worker, const Matrix& w) const {
  const Worker::Piece piece = worker.first_part(w.panels, ABREAST);
  return {w.data + size_t(piece.begin) * w.panel_bytes,
          std::min(size_t(piece.end - piece.begin) * w.panel_bytes, WHILE_WAITING)};
}

Region Network::first_read_heads(const Worker& worker, const Matrix& w) const {
  const size_t bytes = size_t(shape.value_at() / LANES) * w.panel_bytes;
  return {w.data + size_t(worker.first_part(shape.n_head, 1).begin) * bytes, std::min(bytes, WHILE_WAITING)};
}

void Network::product(Worker& worker, const Matrix& w, const Inputs& x, int M, float* out, size_t stride,
                      Finish how) {
  for (auto piece = worker.take_part(w.panels, ABREAST); piece.begin < piece.end;
       piece = worker.take_part(w.panels, ABREAST))
    kernels_.product(w, x, M, piece.begin, piece.end, out + size_t(piece.begin) * LANES, stride, how);
}

}  // namespace gptwo
