// The network's weights, one tensor after the other, by the names of the model's files.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "network.hpp"

namespace gptwo {
namespace {

constexpr size_t READ_AT_ONCE = size_t(1) << 18, READ_AHEAD = 8192;  // of `read_through`

// A file keeps the matrices of the blocks as (in, out); as (out, in) the steps change places.
Source transposed(Source source) {
  std::swap(source.row_step, source.column_step);
  return source;
}

}  // namespace

// A projection of its own comes before the token embedding. Biases come before their matrices, which are packed
// together with them, and so do the layer norms whose output they take: the caller keeps that order and the memory of a
// bias until its matrix has been added.
void Network::add(const std::string& name, const Source& source) {
  const int C = shape.n_embd;
  const auto same = [](int n) { return n; };
  const auto norm = [&](Norm& into) {
    const std::vector<float> values = read_vector(source, C);
    (name.ends_with("bias") ? into.bias : into.gain) = values;
  };
  if (name == "wte.weight") {
    table_ = pack(team_, arena_, head_precision_, source, nullptr, shape.vocab_size, C, same);
    if (rough() && !head_.matrix.panels)
      rough_ = pack(team_, arena_, Precision::int4, source, nullptr, shape.vocab_size, C, same);
  } else if (name == "lm_head.weight") {
    head_ = pack(team_, arena_, head_precision_, source, nullptr, shape.vocab_size, C, same);
    if (rough()) rough_ = pack(team_, arena_, Precision::int4, source, nullptr, shape.vocab_size, C, same);
  } else if (name == "wpe.weight") {
    positions_.resize(size_t(shape.n_positions) * C);
    for (int p = 0; p < shape.n_positions; ++p)
      for (int c = 0; c < C; ++c) positions_[size_t(p) * C + c] = source.at(p, c);
  } else if (name == "ln_f.weight" || name == "ln_f.bias") {
    norm(last_norm_);
  } else if (name.starts_with("h.")) {
    const size_t dot = name.find('.', 2);
    const int index = std::stoi(name.substr(2, dot - 2));
    if (index >= shape.n_layer) throw std::invalid_argument("no such layer: " + name);
    const std::string part = name.substr(dot + 1, name.rfind('.') - dot - 1);
    Layer& layer = layers_[index];
    const bool bias = name.ends_with("bias");
    const auto linear = [&](Packed& into, int slot, Precision precision, int N, int K,
                            const std::function<int(int)>& row, const Norm* before = nullptr) {
      if (bias)
        pending_[slot] = source;
      else if (before && before->bias.empty())
        throw std::invalid_argument("the layer norm comes before " + name);
      else  // what a layer norm gives lies around its biases
        into = pack(team_, arena_, precision, transposed(source), &pending_[slot], N, K, row,
                    before ? before->bias.data() : nullptr);
    };
    if (part == "ln_1") {
      norm(layer.before_attention);
    } else if (part == "ln_2") {
      norm(layer.before_mlp);
    } else if (part == "attn.c_attn") {
      const int value_at = shape.value_at(), value_rows = shape.head_rows() - value_at;
      linear(layer.queries_keys, 0, precision_, shape.n_head * value_at, C,
             [&](int n) { return by_head(n / value_at, n % value_at); }, &layer.before_attention);
      linear(layer.values, 0, value_precision(), shape.n_head * value_rows, C,
             [&](int n) { return by_head(n / value_rows, value_at + n % value_rows); }, &layer.before_attention);
    } else if (part == "attn.c_proj") {
      linear(layer.projection, 1, precision_, C, C, same);
    } else if (part == "mlp.c_fc") {
      linear(layer.up, 2, precision_, shape.n_inner, C, same, &layer.before_mlp);
    } else if (part == "mlp.c_proj") {
      linear(layer.down, 3, precision_, C, shape.n_inner, same);
    } else {
      throw std::invalid_argument("unknown weight: " + name);
    }
  } else {
    throw std::invalid_argument("unknown weight: " + name);
  }
  std::erase(lacking_, name);
}

// The row of the file's matrix for one of a head's rows, -1 for one of padding. What a head needs stands together: one
// thread computes its query, key and value, and then attends.
int Network::by_head(int head, int row) const {
  const int D = shape.head_dim(), from_value = row - shape.value_at();
  if (row < 2 * D) return row / D * shape.n_embd + head * D + row % D;
  return from_value >= 0 && from_value < D ? 2 * shape.n_embd + head * D + from_value : -1;
}

size_t Network::read_through() {
  struct Chunk {
    const char* data;
    size_t bytes;
  };
  std::vector<Chunk> chunks;
  size_t total = 0;
  const auto add = [&](const Matrix& w) {
    const size_t groups = w.precision == Precision::int4 ? w.panel_bytes / (GROUP_INT4 * 8) : 0;
    const Chunk weights{w.data, w.panels * w.panel_bytes};
    const Chunk scales{reinterpret_cast<const char*>(w.group_scales), w.panels * groups * LANES * 2};
    for (const auto& [data, bytes] : {weights, scales})
      for (size_t at = 0; at < bytes; at += READ_AT_ONCE) {
        chunks.push_back({data + at, std::min(READ_AT_ONCE, bytes - at)});
        total += chunks.back().bytes;
      }
  };
  for (const Layer& layer : layers_)
    for (const Packed* packed : {&layer.queries_keys, &layer.values, &layer.projection, &layer.up, &layer.down})
      add(packed->matrix);
  add(rough() ? rough_.matrix : head().matrix);
  std::atomic<uint64_t> sum{0};
  team_.run([&](Worker& worker) {
    uint64_t own = 0;
    const int count = int(chunks.size());
    for (auto piece = worker.take(count, 1); piece.begin < piece.end; piece = worker.take(count, 1)) {
      const auto [data, bytes] = chunks[piece.begin];
      for (size_t at = 0; at + 64 <= bytes; at += 64) {
        __builtin_prefetch(data + at + READ_AHEAD, 0, 2);
        uint64_t words[8];
        std::memcpy(words, data + at, 64);
        for (uint64_t word : words) own ^= word;
      }
    }
    sum ^= own;  // or the compiler might leave the reading out
  });
  return total;
}

size_t Network::weight_bytes() const {
  size_t total = arena_.bytes() + screen_.bytes() + positions_.size() * 4;
  for (const auto& [number, adapter] : adapters_) total += adapter.arena.bytes();
  return total;
}

}  // namespace gptwo
