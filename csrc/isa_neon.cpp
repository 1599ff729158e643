// NEON: every 64-bit ARM processor.
#include "simd/neon.hpp"

#include "kernels/table.hpp"

GPTWO_KERNELS(neon_kernels, Neon, "neon")
