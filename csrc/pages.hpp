// The key/value cache: pages of PAGE tokens over all layers and heads, counted, shared and bounded.
//
// A page belongs to everyone who counts it: sequences, and the prefix cache, which keeps full pages by their tokens
// so that a later sequence with the same beginning takes them over. Whoever writes to a page that others count too
// gets a copy first.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"

namespace gptwo {

class Pages {
 public:
  // At most limit bytes are taken, in slabs as they are needed.
  Pages(size_t page_bytes, size_t limit);

  // Can `count` more pages be had, those of the prefix cache that nobody else counts included?
  bool can_take(size_t count) const;
  int take();  // a page counted once; the caller has asked can_take
  void hold(int page) { ++counts_[page]; }
  void drop(int page);
  bool shared(int page) const { return counts_[page] > 1; }
  int copy(int page);  // a page of one's own with the same content; drops the old one
  char* data(int page) const { return places_[page]; }

  // The prefix cache. A chain of pages is named by its last one; 0 is the empty chain.
  using Tokens = std::array<int32_t, PAGE>;
  using Chain = uint64_t;
  struct Found {
    Chain chain;  // 0: not there
    int page;
  };
  Found find(Chain before, const Tokens& tokens);
  // Keep a full page; where the same tokens are kept already, the page that is kept is returned.
  Found keep(Chain before, const Tokens& tokens, int page);
  void forget();  // every page that only the prefix cache counts

  size_t page_bytes() const { return page_bytes_; }
  size_t limit() const { return limit_; }     // in pages
  size_t used() const { return used_; }       // counted by anyone
  size_t cached() const { return kept_.size(); }  // counted by the prefix cache
  size_t only_cached() const;
  size_t bytes() const { return places_.size() * page_bytes_; }  // taken from the system

 private:
  struct Key {
    Chain before;
    Tokens tokens;
    bool operator<(const Key& other) const {
      return before != other.before ? before < other.before : tokens < other.tokens;
    }
  };
  struct Kept {
    Chain chain;
    int page;
    uint64_t touched;
  };
  bool evict();

  size_t page_bytes_, limit_, used_ = 0;
  std::vector<Buffer> slabs_;
  std::vector<char*> places_;
  std::vector<int> counts_;
  std::vector<int> free_;
  std::map<Key, Kept> kept_;
  std::map<Chain, int> followers_;  // how many kept pages come right after a chain
  Chain last_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace gptwo
