#include "cpu.hpp"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace gptwo {
namespace {

#if defined(__x86_64__)
struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Leaf leaf(unsigned number, unsigned part = 0) {
  Leaf found;
  if (__get_cpuid_max(0, nullptr) >= number) __cpuid_count(number, part, found.a, found.b, found.c, found.d);
  return found;
}

// Registers that the system saves when it switches threads (bits of XCR0).
unsigned long long saved_registers() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low | (unsigned long long)high << 32;
}

constexpr bool bit(unsigned word, int number) { return word >> number & 1; }
#endif

struct Isa {
  const Kernels* (*table)();
  bool (*runs)();
};

#if defined(__x86_64__)
bool has_avx2() {
  const Leaf one = leaf(1), seven = leaf(7);
  if (!bit(one.c, 27) || (saved_registers() & 6) != 6) return false;  // OSXSAVE; SSE and AVX registers
  return bit(one.c, 12) && bit(seven.b, 5);                           // FMA, AVX2
}
bool has_avx2_vnni() { return has_avx2() && bit(leaf(7, 1).a, 4); }
bool has_avx512() {
  if (!has_avx2() || (saved_registers() & 0xe6) != 0xe6) return false;  // mask and 512-bit registers too
  const Leaf seven = leaf(7);
  return bit(seven.b, 16) && bit(seven.b, 17) && bit(seven.b, 30) && bit(seven.b, 31)  // F, DQ, BW, VL
         && bit(seven.c, 11);                                                          // VNNI
}
bool has_avx512_bf16() { return has_avx512() && bit(leaf(7, 1).a, 5); }
#endif

const Isa ISAS[] = {
    {plain_kernels, [] { return true; }},
#ifdef GPTWO_AVX2
    {avx2_kernels, has_avx2},
#endif
#ifdef GPTWO_AVX2_VNNI
    {avx2_vnni_kernels, has_avx2_vnni},
#endif
#ifdef GPTWO_AVX512
    {avx512_kernels, has_avx512},
#endif
#ifdef GPTWO_AVX512_BF16
    {avx512_bf16_kernels, has_avx512_bf16},
#endif
    // NEON: a traits header beside simd/avx2.hpp, an isa_neon.cpp, and a line here
};

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : ISAS)
    if (isa.runs()) names.emplace_back(isa.table()->name);
  return names;
}

const Kernels* choose_kernels(const std::string& name) {
  const Kernels* chosen = nullptr;
  std::string there;
  for (const Isa& isa : ISAS) {
    if (!isa.runs()) continue;
    if (name.empty() || name == isa.table()->name) chosen = isa.table();
    there += (there.empty() ? "" : ", ") + std::string(isa.table()->name);
  }
  if (!chosen) throw std::invalid_argument("This machine cannot run \"" + name + "\". It has: " + there);
  return chosen;
}

}  // namespace gptwo
