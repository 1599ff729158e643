#include "pages.hpp"

#include <algorithm>
#include <cstring>

namespace gptwo {
namespace {

constexpr size_t SLAB = size_t(1) << 26;  // asked of the system at a time; what no page has used yet costs nothing

}  // namespace

Pages::Pages(size_t page_bytes, size_t limit) : page_bytes_(page_bytes), limit_(limit / page_bytes) {}

bool Pages::can_take(size_t count) const {
  const size_t left = limit_ - used_;
  return count <= left || count <= left + only_cached();
}

size_t Pages::only_cached() const {
  size_t count = 0;
  for (const auto& [key, kept] : kept_) count += counts_[kept.page] == 1;
  return count;
}

int Pages::take() {
  if (used_ == limit_) evict();
  if (free_.empty()) {
    const size_t more = std::min(std::max<size_t>(1, SLAB / page_bytes_), limit_ - places_.size());
    slabs_.emplace_back(more * page_bytes_);
    for (size_t i = 0; i < more; ++i) {
      free_.push_back(int(places_.size() + more - 1 - i));
    }
    for (size_t i = 0; i < more; ++i) {
      places_.push_back(slabs_.back().as<char>() + i * page_bytes_);
      counts_.push_back(0);
    }
  }
  const int page = free_.back();
  free_.pop_back();
  counts_[page] = 1;
  ++used_;
  return page;
}

void Pages::drop(int page) {
  if (--counts_[page]) return;
  free_.push_back(page);
  --used_;
}

int Pages::copy(int page) {
  const int own = take();
  std::memcpy(data(own), data(page), page_bytes_);
  drop(page);
  return own;
}

Pages::Found Pages::find(Chain before, const Tokens& tokens) {
  const auto place = kept_.find(Key{before, tokens});
  if (place == kept_.end()) return {0, 0};
  place->second.touched = ++clock_;
  return {place->second.chain, place->second.page};
}

Pages::Found Pages::keep(Chain before, const Tokens& tokens, int page) {
  const Found found = find(before, tokens);
  if (found.chain) return found;
  kept_[Key{before, tokens}] = Kept{++last_, page, ++clock_};
  if (before) ++followers_[before];
  hold(page);
  return {last_, page};
}

// Give up the page that was used longest ago, of those that nobody counts and no kept page comes after.
bool Pages::evict() {
  auto oldest = kept_.end();
  for (auto place = kept_.begin(); place != kept_.end(); ++place) {
    const bool free = counts_[place->second.page] == 1 && !followers_.count(place->second.chain);
    if (free && (oldest == kept_.end() || place->second.touched < oldest->second.touched)) oldest = place;
  }
  if (oldest == kept_.end()) return false;
  const Chain before = oldest->first.before;
  if (before && --followers_[before] == 0) followers_.erase(before);
  drop(oldest->second.page);
  kept_.erase(oldest);
  return true;
}

void Pages::forget() {
  while (evict()) {
  }
}

}  // namespace gptwo
