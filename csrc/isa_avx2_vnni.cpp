// AVX2 with AVX-VNNI: processors with four-byte products and without AVX512.
#include "simd/avx2.hpp"

#include "kernels/table.hpp"

GPTWO_KERNELS(avx2_vnni_kernels, Avx2, "avx2_vnni")
