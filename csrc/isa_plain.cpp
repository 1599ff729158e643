// Plain C++, for any processor: the reference.
#include "simd/plain.hpp"

#include "kernels/table.hpp"

GPTWO_KERNELS(plain_kernels, Plain, "plain")
