// Large blocks of zeroed memory, on huge pages where the system gives them: without those, streaming through weights
// and cache misses the translation of addresses every four kilobytes.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

namespace gptwo {

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    const size_t more = bytes >= LARGE ? LARGE : 0;  // to begin at a multiple of a huge page
    void* place = mmap(nullptr, round(bytes) + more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED) throw std::bad_alloc();
    data_ = place;
    if (!more) return;
    char* begin = static_cast<char*>(place);
    char* aligned = begin + (LARGE - reinterpret_cast<uintptr_t>(begin) % LARGE) % LARGE;
    if (aligned != begin) munmap(begin, size_t(aligned - begin));
    const size_t rest = size_t(begin + more - aligned);
    if (rest) munmap(aligned + round(bytes), rest);
    data_ = aligned;
#ifdef MADV_HUGEPAGE
    madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer() {
    if (data_) munmap(data_, round(bytes_));
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t LARGE = size_t(1) << 21;
  static constexpr size_t SMALL = size_t(1) << 16;  // a multiple of every system's page: 4, 16 or 64 KiB
  static size_t round(size_t bytes) { return (bytes + SMALL - 1) / SMALL * SMALL; }
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Many pieces one after the other in few large blocks. What is not written to yet costs no memory.
class Arena {
 public:
  char* take(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (slabs_.empty() || used_ + bytes > slabs_.back().bytes()) {
      slabs_.emplace_back(bytes > SLAB ? bytes : SLAB);
      used_ = 0;
    }
    total_ += bytes;
    used_ += bytes;
    return slabs_.back().as<char>() + used_ - bytes;
  }
  size_t bytes() const { return total_; }  // handed out

 private:
  static constexpr size_t SLAB = size_t(1) << 26;
  std::vector<Buffer> slabs_;
  size_t used_ = 0, total_ = 0;
};

}  // namespace gptwo
