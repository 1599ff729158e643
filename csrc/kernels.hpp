// What the engine asks of an instruction set: a table of functions over plain structures.
//
// Each instruction set is a translation unit of its own with its own flags (isa_*.cpp) that fills one table from the
// same templates. This header is included by all of them, so it holds plain data only: an inline function or a
// standard container here could be compiled with AVX512 and then be linked into the code for older processors.
//
//   M rows (tokens)    N outputs    K inputs    D width of a head    S tokens seen
#pragma once

#include <cstddef>
#include <cstdint>

namespace gptwo {

constexpr int LANES = 16;         // outputs of a panel; numbers of a vector, whatever the width of the registers
constexpr int ABREAST = 4;       // panels whose products are computed side by side
constexpr int PAGE = 32;          // tokens of a cache page
constexpr int GROUP_INT8 = 128;   // inputs of int8 products that share a scale
constexpr int GROUP_INT4 = 32;    // inputs and weights of int4 products that share a scale
constexpr int ROW_ALIGNMENT = 32;  // rows of float32 activations are padded with zeros to a multiple of this

enum class Precision : int { fp32 = 0, bf16 = 1, int8 = 2, int4 = 3 };

// The 16 levels of an int4 weight, denser around zero, where most weights are: k-means of a normal distribution,
// rounded so that products stay in eight bits.
constexpr int8_t LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Weights (N, K) in panels of 16 outputs, so that a vector holds the same input of 16 outputs:
//   fp32  [N/16][K][16]
//   bf16  [N/16][K/2][16][2]
//   int8  [N/16][K/4][16][4], weight + 128 as a byte; one scale for each output
//   int4  [N/16][K/32][4][16][4] two weights in a byte (inputs 8j+i low, 8j+4+i high);
//         scales in bf16, [N/16][K/32][16]
// K is padded with zero weights to a multiple of 1, 2, 4, 32.
struct Matrix {
  Precision precision;
  int N, K;
  int panels;
  size_t panel_bytes;
  const char* data;
  const float* scales;            // int8: (panels * 16,)
  const uint16_t* group_scales;   // int4
  const float* bias;              // (panels * 16,)
};

// Rows of activations in the form that products of one precision take.
//   fp32 float; bf16 two bytes; int8, int4 signed bytes with a scale and the sum of the bytes for each group.
struct Inputs {
  char* data;
  size_t stride;  // bytes from row to row
  float* scales;  // (M, groups)
  int32_t* sums;  // (M, groups), times 128
  int groups;
};

enum class Finish : int { store, add, gelu };

// What is done to each number in the middle of an adapter's branch.
enum class Bend : int { none = 0, relu = 1, silu = 2, gelu = 3 };

// One head's attention for consecutive tokens of one sequence.
struct Attention {
  const float* query;  // (count, ...), rows query_stride floats apart
  size_t query_stride;
  float* out;  // (count, D), rows out_stride floats apart
  size_t out_stride;
  int count;
  int position;              // of the first query in its sequence: it sees position + 1 keys
  const char* const* pages;  // of the sequence
  size_t offset;             // of this layer's and head's block in a page
  int D;
  float scale;
  float* scratch;  // attention_scratch(S) floats
  Precision cache;  // of keys and values: fp32, bf16 or int8
  const char* const* next;  // pages of the sequence that comes after this one, to be asked for ahead
  int next_pages;
};

struct Kernels {
  const char* name;

  // out[m, 16 * (p - begin) + lane] (=, += or = gelu of) inputs[m] . weights[16 p + lane] + bias, panels begin..end.
  void (*product)(const Matrix&, const Inputs&, int M, int begin, int end, float* out, size_t stride, Finish);

  // A row of float32, (K) padded with zeros, to row m of `inputs`.
  void (*prepare)(Precision, const float* row, int K, const Inputs&, int m);

  // Layer norm of a row of C numbers (Ba et al. 2016); out may be the row itself.
  void (*normalise)(const float* row, const float* gain, const float* bias, int C, float epsilon, float* out);

  void (*attend)(const Attention&);

  // Put key and value (D) of one token into its slot of a block.
  void (*remember)(char* block, int slot, const float* key, const float* value, int D, Precision cache);

  // out[i] = exp((logits[i] - top) * factor); count is padded to a multiple of 16.
  void (*exponentials)(const float* logits, int count, float top, float factor, float* out);

  // Where the first of the largest stands; -1 where a number is NaN.
  int (*first_largest)(const float* numbers, int count);

  // For each panel the largest of numbers - off and of numbers + off, with off = away * scale + length * spread.
  void (*bounds)(const float* numbers, const float* away, const float* length, int panels, float scale, float spread,
                 float* least, float* most);

  // In place; count is a multiple of 16.
  void (*bend)(Bend, float* row, int count);
};

// Sizes that both sides of the table use.
constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int padded_inputs(Precision p, int K) {
  return round_up(K, p == Precision::fp32 ? 1 : p == Precision::bf16 ? 2 : p == Precision::int8 ? 4 : GROUP_INT4);
}
constexpr int input_groups(Precision p, int K) {
  return p == Precision::int8   ? (K + GROUP_INT8 - 1) / GROUP_INT8
         : p == Precision::int4 ? (K + GROUP_INT4 - 1) / GROUP_INT4
                                : 0;
}
constexpr size_t input_bytes(Precision p) { return p == Precision::fp32 ? 4 : p == Precision::bf16 ? 2 : 1; }

// A block holds the keys and values of PAGE tokens for one head of one layer. With W numbers in four bytes (one in
// float32, two in bf16, four in int8) and D' = D rounded up to 16:
//   keys    [PAGE/16][D/W][16][W]: 16 tokens side by side
//   values  [PAGE/W][D'][W]
// In int8 each token has a scale for its key and one for its value, behind them: [2][PAGE] float32. Bytes are the
// numbers + 128, as in weights.
constexpr int per_word(Precision cache) { return 4 / int(input_bytes(cache)); }
constexpr size_t keys_bytes(int D, Precision cache) {
  return size_t(PAGE) * round_up(D, per_word(cache)) * input_bytes(cache);
}
constexpr size_t scales_at(int D, Precision cache) {
  return keys_bytes(D, cache) + size_t(PAGE) * round_up(D, LANES) * input_bytes(cache);
}
constexpr size_t block_bytes(int D, Precision cache) {
  return scales_at(D, cache) + (cache == Precision::int8 ? 2 * PAGE * sizeof(float) : 0);
}
constexpr int QUERIES = 4;  // queries that attention takes together
constexpr size_t attention_scratch(int S, int D) {
  return size_t(QUERIES) * (round_up(S, PAGE) + PAGE + 2 * round_up(D, LANES));
}

const Kernels* plain_kernels();
const Kernels* avx2_kernels();
const Kernels* avx2_vnni_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512_bf16_kernels();
const Kernels* neon_kernels();
const Kernels* neon_dotprod_kernels();
const Kernels* neon_bf16_kernels();

}  // namespace gptwo
