// Weights that are packed already: their places, one after the other as a packed file holds them, and reading them.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "network.hpp"

namespace gptwo {
namespace {

constexpr size_t CHUNK = size_t(1) << 20;  // bytes that a thread reads and sums up at a time

static_assert(std::endian::native == std::endian::little, "packed files hold numbers as the machine does");

// A checksum of one chunk that differs where any byte does: every step is a bijection of its lane.
uint64_t sum_of(const char* data, size_t bytes, uint64_t number) {
  constexpr uint64_t ODD = 0x9e3779b97f4a7c15;
  uint64_t lanes[8];
  for (uint64_t i = 0; i < 8; ++i) lanes[i] = (number * 8 + i + 1) * ODD;
  size_t at = 0;
  for (; at + 64 <= bytes; at += 64) {
    uint64_t words[8];
    std::memcpy(words, data + at, 64);
    for (int i = 0; i < 8; ++i) lanes[i] = (lanes[i] ^ words[i]) * ODD;
  }
  uint64_t rest[8] = {};
  std::memcpy(rest, data + at, bytes - at);
  uint64_t sum = bytes;
  for (int i = 0; i < 8; ++i) {
    const uint64_t lane = (lanes[i] ^ rest[i]) * ODD;
    sum = (sum ^ lane ^ lane >> 29) * ODD;
  }
  return sum ^ sum >> 32;
}

// Read bytes at a place of a file; 0, or the error, ENODATA where the file ends before.
int read_at(int file, char* into, size_t bytes, int64_t place) {
  while (bytes) {
    const ssize_t got = pread(file, into, bytes, off_t(place));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got ? errno : ENODATA;
    into += got;
    place += got;
    bytes -= size_t(got);
  }
  return 0;
}

}  // namespace

void Network::make_room(bool own_head) {
  const int C = shape.n_embd, padded = round_up(C, ROW_ALIGNMENT);
  const auto norm = [&](Norm& into) { into.gain = into.bias = std::vector<float>(padded); };
  table_ = room(arena_, head_precision_, shape.vocab_size, C);
  if (own_head) head_ = room(arena_, head_precision_, shape.vocab_size, C);
  if (rough()) rough_ = room(arena_, Precision::int4, shape.vocab_size, C);
  positions_.resize(size_t(shape.n_positions) * C);
  for (Layer& layer : layers_) {
    norm(layer.before_attention);
    norm(layer.before_mlp);
    layer.queries_keys = room(arena_, precision_, shape.n_head * shape.value_at(), C);
    layer.values = room(arena_, value_precision(), shape.n_head * (shape.head_rows() - shape.value_at()), C);
    layer.projection = room(arena_, precision_, C, C);
    layer.up = room(arena_, precision_, shape.n_inner, C);
    layer.down = room(arena_, precision_, C, shape.n_inner);
  }
  norm(last_norm_);
}

std::vector<Piece> Network::pieces() {
  const size_t C = shape.n_embd;
  std::vector<Piece> all;
  const auto add = [&](const std::string& name, const char* type, std::vector<size_t> sizes, const void* data) {
    size_t bytes = type == std::string("F32") ? 4 : type == std::string("BF16") ? 2 : 1;
    for (size_t size : sizes) bytes *= size;
    all.push_back({name, type, std::move(sizes), static_cast<char*>(const_cast<void*>(data)), bytes});
  };
  const auto matrix = [&](const std::string& name, const Packed& packed, bool bias) {
    const Matrix& w = packed.matrix;
    const size_t panels = w.panels, K = padded_inputs(w.precision, w.K), groups = K / GROUP_INT4;
    switch (w.precision) {
      case Precision::fp32: add(name + ".weight", "F32", {panels, K, LANES}, w.data); break;
      case Precision::bf16: add(name + ".weight", "BF16", {panels, K / 2, LANES, 2}, w.data); break;
      case Precision::int8: add(name + ".weight", "U8", {panels, K / 4, LANES, 4}, w.data); break;
      case Precision::int4: add(name + ".weight", "U8", {panels, groups, 4, LANES, 4}, w.data); break;
    }
    if (w.precision == Precision::int8) add(name + ".scales", "F32", {panels * LANES}, w.scales);
    if (w.precision == Precision::int4) add(name + ".scales", "BF16", {panels, groups, LANES}, w.group_scales);
    if (bias) add(name + ".bias", "F32", {panels * LANES}, w.bias);
  };
  const auto norm = [&](const std::string& name, const Norm& of) {
    add(name + ".weight", "F32", {C}, of.gain.data());
    add(name + ".bias", "F32", {C}, of.bias.data());
  };
  matrix("wte", table_, false);
  if (head_.matrix.panels) matrix("lm_head", head_, false);
  if (rough_.matrix.panels) matrix("lm_head.rough", rough_, false);
  add("wpe.weight", "F32", {size_t(shape.n_positions), C}, positions_.data());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string name = "h." + std::to_string(i) + ".";
    norm(name + "ln_1", layers_[i].before_attention);
    matrix(name + "attn.queries_keys", layers_[i].queries_keys, true);
    matrix(name + "attn.values", layers_[i].values, true);
    matrix(name + "attn.c_proj", layers_[i].projection, true);
    norm(name + "ln_2", layers_[i].before_mlp);
    matrix(name + "mlp.c_fc", layers_[i].up, true);
    matrix(name + "mlp.c_proj", layers_[i].down, true);
  }
  norm("ln_f", last_norm_);
  return all;
}

uint64_t Network::visit(const std::function<int(char*, size_t, int64_t)>& before) {
  struct Chunk {
    char* data;
    size_t bytes;
    int64_t place;
  };
  std::vector<Chunk> chunks;
  int64_t place = 0;
  for (const Piece& piece : pieces())
    for (size_t at = 0; at < piece.bytes; at += CHUNK) {
      const size_t bytes = std::min(CHUNK, piece.bytes - at);
      chunks.push_back({piece.data + at, bytes, place});
      place += int64_t(bytes);
    }
  std::atomic<uint64_t> sum{0};
  std::atomic<int> error{0};
  team_.run([&](Worker& worker) {
    const int count = int(chunks.size());
    for (auto piece = worker.take(count, 1); piece.begin < piece.end; piece = worker.take(count, 1)) {
      const Chunk& chunk = chunks[piece.begin];
      if (error) continue;
      if (const int wrong = before(chunk.data, chunk.bytes, chunk.place)) error = wrong;
      sum += sum_of(chunk.data, chunk.bytes, uint64_t(piece.begin));
    }
  });
  if (error) throw std::system_error(error, std::generic_category());
  return sum;
}

uint64_t Network::checksum() {
  return visit([](char*, size_t, int64_t) { return 0; });
}

uint64_t Network::read(int file, int64_t start) {
  const uint64_t sum =
      visit([&](char* into, size_t bytes, int64_t place) { return read_at(file, into, bytes, start + place); });
  lacking_.clear();
  return sum;
}

}  // namespace gptwo
