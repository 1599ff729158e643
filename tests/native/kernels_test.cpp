// Every kernel of every instruction set that runs here, beside the plain one and beside itself in other shapes.
//
//   kernels_test [NAME...]    the names are the instruction sets that this machine must have, slowest first
//
// What is rounded the same way everywhere must be equal bit for bit: prepared inputs, what the cache remembers, sums of
// bytes. The rest stays within a tolerance of the plain kernels. Within one instruction set the numbers of a row or a
// query must not depend on what is computed beside it: equal bit for bit.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cpu.hpp"

using namespace gptwo;

namespace {

constexpr float GUARD = 12345.0f;  // behind every output; must stay

const char* name_of(Precision p) {
  const char* names[] = {"fp32", "bf16", "int8", "int4"};
  return names[int(p)];
}

struct Random {
  std::mt19937 bits{20240615};
  float normal() { return std::normal_distribution<float>()(bits); }
  int below(int n) { return int(bits() % unsigned(n)); }
  std::vector<float> normals(size_t count) {
    std::vector<float> x(count);
    for (float& y : x) y = normal();
    return x;
  }
};

uint16_t to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// What is being compared, for messages and for the count at the end.
struct Report {
  std::string isa, what;
  int compared = 0, wrong = 0;

  void fail(const std::string& why) {
    if (++wrong <= 20) std::printf("%s: %s: %s\n", isa.c_str(), what.c_str(), why.c_str());
  }
  void equal(const void* a, const void* b, size_t bytes, const char* why) {
    ++compared;
    if (std::memcmp(a, b, bytes)) fail(std::string(why) + " differs");
  }
  // |found - wanted| <= tolerance, NaN never.
  void close(const std::vector<float>& found, const std::vector<float>& wanted, const std::vector<float>& tolerance) {
    ++compared;
    for (size_t i = 0; i < wanted.size(); ++i)
      if (!(std::fabs(found[i] - wanted[i]) <= tolerance[i]))
        return fail(std::to_string(found[i]) + " instead of " + std::to_string(wanted[i]) + " at " + std::to_string(i));
  }
};

// Rows of activations in the form that products take, as `isa` prepares them.
struct Rows {
  std::vector<char> data;
  std::vector<float> scales;
  std::vector<int32_t> sums;
  Inputs inputs;

  Rows(const Kernels& isa, Precision p, const std::vector<float>& rows, int M, int K) {
    const int padded = round_up(K, ROW_ALIGNMENT);
    const size_t stride = size_t(padded) * input_bytes(p);
    const int groups = input_groups(p, K);
    data.assign(M * stride, 0);
    scales.assign(size_t(M) * groups, 0);
    sums.assign(size_t(M) * groups, 0);
    inputs = {data.data(), stride, scales.data(), sums.data(), groups};
    for (int m = 0; m < M; ++m) isa.prepare(p, rows.data() + size_t(m) * padded, K, inputs, m);
  }
  Inputs from(int m) const {
    Inputs one = inputs;
    one.data += m * one.stride;
    one.scales += size_t(m) * one.groups;
    one.sums += size_t(m) * one.groups;
    return one;
  }
};

// A matrix of random bytes in the packed layout.
struct Weights {
  std::vector<char> data;
  std::vector<float> scales, bias;
  std::vector<uint16_t> group_scales;
  Matrix matrix;

  Weights(Random& random, Precision p, int panels, int K) {
    const int padded = padded_inputs(p, K), outputs = panels * LANES;
    const size_t panel_bytes = p == Precision::int4 ? size_t(padded) * 8 : size_t(padded) * 16 * input_bytes(p);
    data.assign(panels * panel_bytes, 0);
    bias = random.normals(outputs);
    for (int i = 0; i < outputs; ++i) scales.push_back(0.001f + 0.002f * std::fabs(random.normal()));
    for (int i = 0; i < outputs * padded / GROUP_INT4; ++i) group_scales.push_back(to_bf16(0.002f * random.normal()));
    for (int n = 0; n < outputs; ++n)
      for (int k = 0; k < padded; ++k) put(random, p, n, k, k < K, panel_bytes);
    matrix = {p, outputs, K, panels, panel_bytes, data.data(), scales.data(), group_scales.data(), bias.data()};
  }

 private:
  void put(Random& random, Precision p, int n, int k, bool real, size_t panel_bytes) {
    char* panel = data.data() + n / 16 * panel_bytes;
    const int lane = n % 16;
    const float x = real ? 0.1f * random.normal() : 0.0f;
    const uint16_t half = to_bf16(x);
    switch (p) {
      case Precision::fp32: std::memcpy(panel + (size_t(k) * 16 + lane) * 4, &x, 4); break;
      case Precision::bf16: std::memcpy(panel + (size_t(k / 2) * 32 + lane * 2 + k % 2) * 2, &half, 2); break;
      case Precision::int8:  // the outermost values often: there sums would saturate
        panel[k / 4 * 64 + lane * 4 + k % 4] =
            char(!real ? 128 : random.below(4) == 0 ? 1 + 254 * random.below(2) : 1 + random.below(255));
        break;
      case Precision::int4:
        panel[k / 8 * 64 + lane * 4 + k % 4] |= char(random.below(16) << (k % 8 < 4 ? 0 : 4));
        break;
    }
  }
};

std::vector<float> product(const Kernels& isa, const Matrix& w, const Inputs& x, int M, int begin, int end,
                           Finish how) {
  const size_t stride = size_t(end - begin) * 16 + 16;
  std::vector<float> out(M * stride, GUARD);
  for (int m = 0; m < M; ++m)
    for (size_t i = 0; i + 16 < stride; ++i) out[m * stride + i] = 0.25f * float(i % 7);  // what `add` adds to
  isa.product(w, x, M, begin, end, out.data(), stride, how);
  return out;
}

void test_products(Report& report, const Kernels& isa, const Kernels& plain, Random& random) {
  const bool rounds_pairs = std::string(isa.name).ends_with("bf16");  // its products of bf16 round in their own way
  for (const Precision p : {Precision::fp32, Precision::bf16, Precision::int8, Precision::int4})
    for (const int K : {1, 7, 32, 45, 128, 129, 300})
      for (const int M : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13}) {
        const int panels = 1 + (M + K) % 7, padded = round_up(K, ROW_ALIGNMENT);
        report.what = std::string("product ") + name_of(p) + ", " + std::to_string(M) + " rows, " + std::to_string(K) +
                      " inputs, " + std::to_string(panels) + " panels";
        const Weights weights(random, p, panels, K);
        std::vector<float> rows(size_t(M) * padded, 0.0f);
        for (int m = 0; m < M; ++m)
          for (int k = 0; k < K; ++k) rows[size_t(m) * padded + k] = m == 2 ? 0.0f : random.normal();
        const Rows x(isa, p, rows, M, K), reference(plain, p, rows, M, K);
        report.equal(x.data.data(), reference.data.data(), x.data.size(), "what prepare writes");
        report.equal(x.scales.data(), reference.scales.data(), x.scales.size() * 4, "a scale of prepare");
        report.equal(x.sums.data(), reference.sums.data(), x.sums.size() * 4, "a sum of prepare");
        for (const Finish how : {Finish::store, Finish::add, Finish::gelu}) {
          const auto found = product(isa, weights.matrix, x.inputs, M, 0, panels, how);
          const auto wanted = product(plain, weights.matrix, reference.inputs, M, 0, panels, how);
          // One group of bytes is one exact sum; a product of two bf16 is exact, so fused and separate sums are equal.
          const bool exact = how != Finish::gelu && ((p == Precision::int8 && K <= GROUP_INT8) ||
                                                     (p == Precision::bf16 && !rounds_pairs));
          std::vector<float> tolerance(wanted.size());
          for (size_t i = 0; i < wanted.size(); ++i)
            tolerance[i] = exact ? 0.0f : 2e-6f * (1.0f + std::fabs(wanted[i]) + std::sqrt(float(K)));
          report.close(found, wanted, tolerance);
          const size_t width = size_t(panels) * 16 + 16;
          for (int m = 0; m < M; ++m) {  // each row alone, its panels cut in two
            const int cut = (m + 1) % (panels + 1);
            const auto left = product(isa, weights.matrix, x.from(m), 1, 0, cut, how);
            report.equal(left.data(), found.data() + m * width, size_t(cut) * 64, "a row alone");
            if (how == Finish::add) continue;  // adds to numbers that depend on the place
            const auto right = product(isa, weights.matrix, x.from(m), 1, cut, panels, how);
            report.equal(right.data(), found.data() + m * width + cut * 16, size_t(panels - cut) * 64, "a row alone");
          }
        }
      }
}

void test_rows(Report& report, const Kernels& isa, const Kernels& plain, Random& random) {
  for (const int C : {1, 15, 16, 40, 77, 256}) {
    report.what = "normalise, " + std::to_string(C) + " numbers";
    const auto row = random.normals(C), gain = random.normals(C), bias = random.normals(C);
    std::vector<float> found(C + 16, GUARD), wanted(C + 16, GUARD);
    isa.normalise(row.data(), gain.data(), bias.data(), C, 1e-5f, found.data());
    plain.normalise(row.data(), gain.data(), bias.data(), C, 1e-5f, wanted.data());
    report.close(found, wanted, std::vector<float>(C + 16, 1e-5f));
    std::vector<float> in_place = row;
    isa.normalise(in_place.data(), gain.data(), bias.data(), C, 1e-5f, in_place.data());
    report.equal(in_place.data(), found.data(), size_t(C) * 4, "a row in place");
  }
  std::vector<float> numbers;
  for (int i = 0; i < 4096; ++i) numbers.push_back(float(i - 2048) / 20.0f);
  const int count = int(numbers.size());
  report.what = "exponentials";
  const float top = *(numbers.end() - 1);
  std::vector<float> found(count + 16, GUARD), wanted(count + 16, GUARD), tolerance(count + 16, 0.0f);
  isa.exponentials(numbers.data(), count, top, 0.7f, found.data());
  for (int i = 0; i < count; ++i) {
    const float x = (numbers[i] - top) * 0.7f;
    wanted[i] = x < -87.0f ? 0.0f : std::exp(x);
    tolerance[i] = 4e-7f * wanted[i];
  }
  report.close(found, wanted, tolerance);
  for (const Bend how : {Bend::none, Bend::relu, Bend::silu, Bend::gelu}) {
    report.what = "bend " + std::to_string(int(how));
    found = wanted = numbers;
    isa.bend(how, found.data(), count);
    for (float& x : wanted) {
      const double y = x;
      if (how == Bend::relu) x = x > 0 ? x : 0.0f;
      if (how == Bend::silu) x = float(y / (1 + std::exp(-y)));
      if (how == Bend::gelu) x = float(0.5 * y * (1 + std::tanh(0.7978845608028654 * (y + 0.044715 * y * y * y))));
    }
    tolerance.assign(count, 0.0f);
    if (how == Bend::silu || how == Bend::gelu)
      for (int i = 0; i < count; ++i) tolerance[i] = 1e-6f * (1.0f + std::fabs(wanted[i]));
    report.close(found, wanted, tolerance);
    std::vector<float> plains = numbers;
    plain.bend(how, plains.data(), count);
    report.close(found, plains, tolerance);
  }
}

void test_choices(Report& report, const Kernels& isa, const Kernels& plain, Random& random) {
  for (const int count : {1, 16, 31, 256, 300, 1000}) {
    report.what = "first largest of " + std::to_string(count);
    auto numbers = random.normals(count);
    const auto expect = [&](int place, const char* why) {
      const int found = isa.first_largest(numbers.data(), count);
      report.equal(&found, &place, sizeof place, why);
    };
    expect(plain.first_largest(numbers.data(), count), "the place");
    const int first = random.below(count);
    for (const int place : {first, count - 1}) numbers[place] = 9.0f;
    expect(first, "the first of two");
    std::fill(numbers.begin(), numbers.end(), -INFINITY);
    expect(0, "the place where all are minus infinity");
    for (const int place : {0, count / 2, count - 1}) {
      numbers = random.normals(count);
      numbers[place] = NAN;
      expect(-1, "the place where one is NaN");
    }
  }
  for (const int panels : {1, 5}) {
    report.what = "bounds";
    const int count = panels * 16;
    const auto numbers = random.normals(count), away = random.normals(count), length = random.normals(count);
    std::vector<float> least(panels + 1, GUARD), most = least, plain_least = least, plain_most = least;
    isa.bounds(numbers.data(), away.data(), length.data(), panels, 0.3f, 0.7f, least.data(), most.data());
    plain.bounds(numbers.data(), away.data(), length.data(), panels, 0.3f, 0.7f, plain_least.data(), plain_most.data());
    report.close(least, plain_least, std::vector<float>(panels + 1, 1e-6f));
    report.close(most, plain_most, std::vector<float>(panels + 1, 1e-6f));
  }
}

// Keys and values of `seen` tokens in pages that another head's block stands before.
struct Cache {
  std::vector<std::vector<char>> memory;
  std::vector<const char*> pages;
  size_t offset;

  Cache(const Kernels& isa, Precision cache, int D, int seen, const std::vector<float>& keys,
        const std::vector<float>& values)
      : offset(round_up(int(block_bytes(D, cache)), 64)) {
    for (int token = 0; token < seen; ++token) {
      if (token % PAGE == 0) memory.emplace_back(offset + block_bytes(D, cache), 0);
      isa.remember(memory.back().data() + offset, token % PAGE, keys.data() + size_t(token) * D,
                   values.data() + size_t(token) * D, D, cache);
    }
    for (const auto& page : memory) pages.push_back(page.data());
  }
};

std::vector<float> attend(const Kernels& isa, Precision cache, const Cache& from, int D, const float* queries,
                          int count, int position) {
  const size_t stride = size_t(D) + 3;
  std::vector<float> out(count * stride + 16, GUARD);
  std::vector<float> scratch(attention_scratch(position + count, D) + 16, NAN);
  const Attention a{queries, size_t(D) + 5, out.data(), stride, count, position, from.pages.data(), from.offset, D,
                    1.0f / std::sqrt(float(D)), scratch.data(), cache, from.pages.data(), 1};
  isa.attend(a);
  return out;
}

void test_attention(Report& report, const Kernels& isa, const Kernels& plain, Random& random) {
  for (const Precision cache : {Precision::fp32, Precision::bf16, Precision::int8})
    for (const int D : {1, 7, 16, 20, 64, 80})
      for (const int position : {0, 1, 14, 31, 32, 77, 150})
        for (const int count : {1, 3, 4, 9}) {
          report.what = std::string("attention ") + name_of(cache) + ", " + std::to_string(count) +
                        " queries from " + std::to_string(position) + ", width " + std::to_string(D);
          const int seen = position + count;
          auto keys = random.normals(size_t(seen) * D);
          const auto values = random.normals(size_t(seen) * D);
          auto queries = random.normals(size_t(count) * (D + 5));
          if (position == 14) std::fill(keys.begin(), keys.begin() + D, 0.0f);
          if (position == 31) std::fill(queries.begin(), queries.begin() + D, 0.0f);
          const Cache own(isa, cache, D, seen, keys, values), reference(plain, cache, D, seen, keys, values);
          for (size_t i = 0; i < own.memory.size(); ++i)
            report.equal(own.memory[i].data(), reference.memory[i].data(), own.memory[i].size(), "what it remembers");
          const auto found = attend(isa, cache, own, D, queries.data(), count, position);
          const auto wanted = attend(plain, cache, reference, D, queries.data(), count, position);
          const float tolerance = cache == Precision::fp32 ? 4e-6f : cache == Precision::bf16 ? 1e-2f : 1e-4f;
          report.close(found, wanted, std::vector<float>(wanted.size(), tolerance));
          for (int q = 0; q < count; ++q) {
            const auto alone = attend(isa, cache, own, D, queries.data() + size_t(q) * (D + 5), 1, position + q);
            report.equal(alone.data(), found.data() + size_t(q) * (D + 3), size_t(D) * 4, "a query alone");
          }
        }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> names = available_isas();
  std::string here, wanted;
  for (const std::string& name : names) here += " " + name;
  for (int i = 1; i < argc; ++i) wanted += std::string(" ") + argv[i];
  if (argc > 1 && here != wanted) {
    std::printf("This machine has%s instead of%s\n", here.c_str(), wanted.c_str());
    return 1;
  }
  const Kernels& plain = *choose_kernels("plain");
  int wrong = 0;
  for (const std::string& name : names) {
    const Kernels& isa = *choose_kernels(name);
    Report report{name, ""};
    Random random;
    test_products(report, isa, plain, random);
    test_rows(report, isa, plain, random);
    test_choices(report, isa, plain, random);
    test_attention(report, isa, plain, random);
    std::printf("%s: %d comparisons, %d wrong\n", name.c_str(), report.compared, report.wrong);
    wrong += report.wrong;
  }
  return wrong ? 1 : 0;
}
