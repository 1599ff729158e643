// What adapters add to a pass. Rows that go through none get the very numbers that they get in a pass without any.
#include <algorithm>
#include <stdexcept>

#include "network.hpp"

namespace gptwo {
namespace {

constexpr int TOGETHER = 4;  // rows whose branches are computed at once

bool any(const Rows& all, int index, Place place) {
  for (const Run& run : all.runs)
    if (run.adapter->at(index, place)) return true;
  return false;
}

Inputs plain_inputs(const float* rows, size_t stride) {
  Inputs x{};
  x.data = reinterpret_cast<char*>(const_cast<float*>(rows));
  x.stride = stride * 4;
  return x;
}

}  // namespace

int Network::add_adapter() {
  adapters_[++last_adapter_].layers.resize(size_t(shape.n_layer));
  return last_adapter_;
}

void Network::add_branch(int adapter, int index, Place place, Bend bend, int R, const Source& down,
                         const Source& down_bias, const Source& up, const Source& up_bias) {
  const int C = shape.n_embd;
  const bool wide = place == Place::up;
  Arena& arena = adapters_.at(adapter).arena;
  Branch& branch = adapters_.at(adapter).layers.at(size_t(index)).at(size_t(place));
  const auto same = [](int n) { return n; };
  branch.down = pack(team_, arena, Precision::fp32, down, down_bias.data ? &down_bias : nullptr, R,
                     place == Place::down ? shape.n_inner : C, same);
  const int of_head = shape.head_rows();
  const auto rows = [&](int n) { return place == Place::attention ? by_head(n / of_head, n % of_head) : n; };
  branch.up = pack(team_, arena, Precision::fp32, up, up_bias.data ? &up_bias : nullptr,
                   place == Place::attention ? shape.n_head * shape.head_rows() : wide ? shape.n_inner : C, R, rows);
  branch.bend = bend;
  if (const int stride = round_up(R, LANES); stride > low_stride_) {
    low_stride_ = stride;
    low_ = Buffer(size_t(max_tokens) * stride * 4);
  }
  if (!plain_.bytes()) {
    plain_ = Buffer(size_t(max_tokens) * width_ * 4);
    given_ = Buffer(size_t(max_tokens) * width_ * 4);
  }
}

void Network::begin_with(int adapter, int tokens, const float* keys, const float* values) {
  if (tokens >= shape.n_positions) throw std::invalid_argument("the adapter leaves no positions");
  Adapter& into = adapters_.at(adapter);
  const size_t count = size_t(tokens) * shape.n_layer * shape.n_embd;
  into.before = tokens;
  into.keys.assign(keys, keys + count);
  into.values.assign(values, values + count);
}

void Network::drop_adapter(int number) { adapters_.erase(number); }

const Adapter* Network::adapter(int number) const {
  if (!number) return nullptr;
  const auto place = adapters_.find(number);
  if (place == adapters_.end()) throw std::invalid_argument("there is no adapter " + std::to_string(number));
  return &place->second;
}

void Network::begin(const Adapter& adapter, char* const* pages) const {
  const int D = shape.head_dim(), blocks = shape.n_layer * shape.n_head;
  for (int block = 0; block < blocks; ++block)
    for (int token = 0; token < adapter.before; ++token) {
      const size_t at = (size_t(block) * adapter.before + token) * D;
      kernels_.remember(pages[token / PAGE] + block * block_bytes(D, cache_), token % PAGE, adapter.keys.data() + at,
                        adapter.values.data() + at, D, cache_);
    }
}

Rows rows_of(const std::vector<const Adapter*>& adapters) {
  Rows all{int(adapters.size()), {}};
  for (int m = 0; m < all.count; ++m) {
    if (!adapters[m]) continue;
    if (m && adapters[m] == adapters[m - 1])
      ++all.runs.back().count;
    else
      all.runs.push_back({adapters[m], m, 1});
  }
  return all;
}

// The middles of a branch for some rows: bend(down(x)).
void Network::middle(const Branch& branch, const float* rows, size_t stride, int count, float* out) {
  const int panels = branch.down.matrix.panels;
  kernels_.product(branch.down.matrix, plain_inputs(rows, stride), count, 0, panels, out, size_t(low_stride_),
                   Finish::store);
  for (int r = 0; r < count; ++r) kernels_.bend(branch.bend, out + size_t(r) * low_stride_, panels * LANES);
}

// The middles of the branches at a place, for the product that comes next. Ends in a barrier where there are any.
void Network::lower(Worker& worker, int index, Place place, const Rows& all, const float* rows, size_t stride,
                    const Norm* norm) {
  if (!any(all, index, place)) return;
  for (const Run& run : all.runs) {
    const Branch* branch = run.adapter->at(index, place);
    if (!branch) continue;
    for (int m = run.begin; m < run.begin + run.count; m += TOGETHER) {
      if (m / TOGETHER % worker.threads() != worker.index()) continue;
      const int count = std::min(TOGETHER, run.begin + run.count - m);
      const float* from = rows + size_t(m) * stride;
      if (norm) {
        float* plain = plain_.as<float>() + size_t(m) * width_;
        for (int r = 0; r < count; ++r)
          kernels_.normalise(from + size_t(r) * stride, norm->gain.data(), norm->bias.data(), shape.n_embd,
                             shape.layer_norm_epsilon, plain + size_t(r) * width_);
        from = plain;
      }
      middle(*branch, from, norm ? size_t(width_) : stride, count, low_.as<float>() + size_t(m) * low_stride_);
    }
  }
  worker.barrier();
}

// Add what a branch makes of its middles to panels begin..end of the rows of a run.
void Network::raise(int index, Place place, const Run& run, int begin, int end, float* out, size_t stride) {
  const Branch* branch = run.adapter->at(index, place);
  if (!branch) return;
  const float* low = low_.as<float>() + size_t(run.begin) * low_stride_;
  kernels_.product(branch->up.matrix, plain_inputs(low, size_t(low_stride_)), run.count, begin, end,
                   out + size_t(run.begin) * stride, stride, Finish::add);
}

// A product with what the adapters add to it, in one order whatever else is in the pass: a sum is (what is there +
// branch) + product. What has a branch behind it is kept apart for `behind`.
void Network::adapted_product(Worker& worker, int index, Place place, const Matrix& w, const Inputs& x,
                              const Rows& all, float* out, size_t stride, Finish how) {
  const bool bends = how == Finish::gelu && any(all, index, place);
  const bool apart = (place == Place::projection && any(all, index, Place::behind_attention)) ||
                     (place == Place::down && any(all, index, Place::behind_mlp));
  for (auto piece = worker.take_part(w.panels, ABREAST); piece.begin < piece.end;
       piece = worker.take_part(w.panels, ABREAST)) {
    const size_t at = size_t(piece.begin) * LANES;
    const auto branches = [&] {
      for (const Run& run : all.runs) {
        raise(index, place, run, piece.begin, piece.end, out + at, stride);
        if (place == Place::down) raise(index, Place::beside_mlp, run, piece.begin, piece.end, out + at, stride);
      }
    };
    if (!bends) branches();
    kernels_.product(w, x, all.count, piece.begin, piece.end, (apart ? given_.as<float>() : out) + at, stride,
                     bends || apart ? Finish::store : how);
    if (!bends) continue;
    branches();
    for (int m = 0; m < all.count; ++m)
      kernels_.bend(Bend::gelu, out + size_t(m) * stride + at, (piece.end - piece.begin) * LANES);
  }
}

// Add what a part gave to the residual, with the branches behind it. Ends in a barrier where there are any.
void Network::behind(Worker& worker, int index, Place place, const Rows& all) {
  if (!any(all, index, place)) return;
  const auto mine = [&](int m) { return m % worker.threads() == worker.index(); };
  float* residual = residual_.as<float>();
  const float* given = given_.as<float>();
  for (int m = 0; m < all.count; ++m) {
    if (!mine(m)) continue;
    const size_t at = size_t(m) * width_;
    for (int c = 0; c < shape.n_embd; ++c) residual[at + c] += given[at + c];
  }
  for (const Run& run : all.runs) {
    const Branch* branch = run.adapter->at(index, place);
    for (int m = run.begin; branch && m < run.begin + run.count; ++m) {
      if (!mine(m)) continue;
      float* low = low_.as<float>() + size_t(m) * low_stride_;
      middle(*branch, given + size_t(m) * width_, size_t(width_), 1, low);
      kernels_.product(branch->up.matrix, plain_inputs(low, size_t(low_stride_)), 1, 0, branch->up.matrix.panels,
                       residual + size_t(m) * width_, size_t(width_), Finish::add);
    }
  }
  worker.barrier();
}

}  // namespace gptwo
