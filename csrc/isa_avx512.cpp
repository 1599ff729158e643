// AVX512 with VNNI: four-byte products.
#include "simd/avx512.hpp"

#include "kernels/table.hpp"

GPTWO_KERNELS(avx512_kernels, Avx512, "avx512")
