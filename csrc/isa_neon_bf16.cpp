// NEON with DotProd, I8MM and BF16: products of bytes of either sign and of bf16 pairs; ARM processors since 2021.
#include "simd/neon.hpp"

#include "kernels/table.hpp"

GPTWO_KERNELS(neon_bf16_kernels, Neon, "neon_bf16")
