// AVX2 and FMA: x86-64 processors since 2013.
#include "simd/avx2.hpp"

#include "kernels/table.hpp"

GPTWO_KERNELS(avx2_kernels, Avx2, "avx2")
