// NEON with DotProd: four-byte products; ARM processors since 2018.
#include "simd/neon.hpp"

#include "kernels/table.hpp"

GPTWO_KERNELS(neon_dotprod_kernels, Neon, "neon_dotprod")
