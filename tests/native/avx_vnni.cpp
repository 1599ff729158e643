// AVX-VNNI for x86-64 processors without it, under Linux. Preloaded into a process (LD_PRELOAD), it carries out what the
// engine's avx2_vnni kernels need and the processor refuses as illegal:
//
//   vpdpbusd   with VEX prefix, 128 or 256 bits: unsigned times signed bytes, four products added to each word
//   ud0        in a copy of a program whose cpuid it replaces (emulated.py): cpuid, and AVX-VNNI is there
//
// At the end of the process it says on standard error how many vpdpbusd there were.
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

std::atomic<long> carried_out{0};

unsigned place_of(unsigned component) {  // in an XSAVE area
  unsigned a, b, c, d;
  __cpuid_count(13, component, a, b, c, d);
  return b;
}
const unsigned LOW = 160, HEADER = 512, HIGH = place_of(2), UPPER = place_of(6);  // bits 0, 128 and 256 of vectors

// What the signal saved of a thread, and where it goes on.
struct State {
  greg_t* general;
  char* area;  // XSAVE, Intel SDM volume 1, 13.4
  uint64_t held;

  explicit State(void* context) {
    mcontext_t& saved = static_cast<ucontext_t*>(context)->uc_mcontext;
    general = saved.gregs;
    area = reinterpret_cast<char*>(saved.fpregs);
    std::memcpy(&held, area + HEADER, 8);
  }

  greg_t& number(int n) {  // as instructions number registers
    static constexpr int order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return general[order[n]];
  }
  const uint8_t* code() const { return reinterpret_cast<const uint8_t*>(general[REG_RIP]); }

  // Halves whose bit is not set are zero, whatever the area holds there.
  void read(int n, void* to) const {
    std::memset(to, 0, 32);
    if (held & 2) std::memcpy(to, area + LOW + 16 * n, 16);
    if (held & 4) std::memcpy(static_cast<char*>(to) + 16, area + HIGH + 16 * n, 16);
  }
  void write(int n, const void* from) {
    if (!(held & 2)) std::memset(area + LOW, 0, 16 * 16);
    if (!(held & 4)) std::memset(area + HIGH, 0, 16 * 16);
    if (held & 64) std::memset(area + UPPER + 32 * n, 0, 32);
    held |= 6;
    std::memcpy(area + HEADER, &held, 8);
    std::memcpy(area + LOW + 16 * n, from, 16);
    std::memcpy(area + HIGH + 16 * n, static_cast<const char*>(from) + 16, 16);
  }
};

// The address in memory that ModRM and what follows it name; `code` moves behind them. X and B are 0 or 8.
const void* address(State& state, const uint8_t*& code, int X, int B) {
  const int mod = *code >> 6, rm = *code & 7;
  ++code;
  int64_t sum = 0;
  bool relative = false, far = mod == 2;  // to the next instruction; with four bytes of distance
  if (rm == 4) {
    const int scale = *code >> 6, index = (*code >> 3 & 7) | X, base = *code & 7;
    ++code;
    if (index != 4) sum += state.number(index) << scale;
    if (base == 5 && mod == 0)
      far = true;
    else
      sum += state.number(base | B);
  } else if (rm == 5 && mod == 0) {
    relative = far = true;
  } else {
    sum += state.number(rm | B);
  }
  int32_t distance = 0;
  if (far) std::memcpy(&distance, code, 4);
  if (mod == 1) distance = int8_t(*code);
  code += far ? 4 : mod == 1 ? 1 : 0;
  if (relative) sum += reinterpret_cast<int64_t>(code);
  return reinterpret_cast<const void*>(sum + distance);
}

bool vpdpbusd(State& state) {
  const uint8_t* code = state.code();
  const int map = code[1] & 31, prefix = code[2] & 0x83;  // W 0, 66
  if (code[0] != 0xc4 || map != 2 || prefix != 1 || code[3] != 0x50) return false;
  const int R = code[1] & 0x80 ? 0 : 8, X = code[1] & 0x40 ? 0 : 8, B = code[1] & 0x20 ? 0 : 8;
  const int bytes = code[2] & 4 ? 32 : 16, target = (code[4] >> 3 & 7) | R;
  uint8_t left[32];
  int8_t right[32];
  int32_t sums[8];
  state.read(~code[2] >> 3 & 15, left);
  state.read(target, sums);
  code += 4;
  if (*code >> 6 == 3) {
    state.read((*code & 7) | B, right);
    ++code;
  } else {
    std::memcpy(right, address(state, code, X, B), size_t(bytes));
  }
  for (int i = 0; i < bytes; ++i) sums[i / 4] += left[i] * right[i];
  for (int i = bytes / 4; i < 8; ++i) sums[i] = 0;
  state.write(target, sums);
  state.general[REG_RIP] = reinterpret_cast<greg_t>(code);
  ++carried_out;
  return true;
}

bool cpuid(State& state) {
  const uint8_t* code = state.code();
  if (code[0] != 0x0f || code[1] != 0xff) return false;
  const unsigned leaf = unsigned(state.general[REG_RAX]), part = unsigned(state.general[REG_RCX]);
  unsigned a, b, c, d;
  __cpuid_count(leaf, part, a, b, c, d);
  if (leaf == 7 && part == 1) a |= 1u << 4;  // AVX-VNNI
  state.general[REG_RAX] = a;
  state.general[REG_RBX] = b;
  state.general[REG_RCX] = c;
  state.general[REG_RDX] = d;
  state.general[REG_RIP] += 2;
  return true;
}

void on_illegal(int, siginfo_t*, void* context) {
  State state(context);
  if (!vpdpbusd(state) && !cpuid(state)) signal(SIGILL, SIG_DFL);  // it comes again and ends the process
}

struct Handler {
  Handler() {
    struct sigaction action {};
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, nullptr);
  }
  ~Handler() { std::fprintf(stderr, "vpdpbusd: %ld\n", carried_out.load()); }
} handler;

}  // namespace
