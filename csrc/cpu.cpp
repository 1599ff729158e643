#include "cpu.hpp"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
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
#elif defined(__aarch64__) && defined(__linux__)
// Bits of Linux's asm/hwcap.h, whose older versions do not name them all.
bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }
bool has_i8mm() { return getauxval(AT_HWCAP2) >> 13 & 1; }
bool has_bf16() { return getauxval(AT_HWCAP2) >> 14 & 1; }
#elif defined(__aarch64__) && defined(__APPLE__)
bool has(const char* feature) {
  int found = 0;
  size_t size = sizeof found;
  return sysctlbyname(feature, &found, &size, nullptr, 0) == 0 && found;
}
bool has_dotprod() { return has("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has("hw.optional.arm.FEAT_I8MM"); }
bool has_bf16() { return has("hw.optional.arm.FEAT_BF16"); }
#elif defined(__aarch64__)
bool has_dotprod() { return false; }
bool has_i8mm() { return false; }
bool has_bf16() { return false; }
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
#ifdef GPTWO_NEON  // of every 64-bit ARM processor
    {neon_kernels, [] { return true; }},
#endif
#ifdef GPTWO_NEON_DOTPROD
    {neon_dotprod_kernels, has_dotprod},
#endif
#ifdef GPTWO_NEON_BF16
    {neon_bf16_kernels, [] { return has_dotprod() && has_i8mm() && has_bf16(); }},
#endif
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
