// AVX512 with VNNI and BF16: products of bf16 pairs.
#include "simd/avx512.hpp"

#include "kernels/table.hpp"

GPTWO_KERNELS(avx512_bf16_kernels, Avx512, "avx512_bf16")
