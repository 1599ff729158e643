#include "threads.hpp"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gptwo {
namespace {

constexpr int SPINS = 2000;  // some 40 microseconds: longer than a stage is uneven, shorter than anyone notices

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

void Team::wait_while(std::atomic<int>& value, int old, std::atomic<int>& sleepers) {
  for (int i = 0; i < SPINS; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  sleepers.fetch_add(1);
  while (value.load() == old) value.wait(old);
  sleepers.fetch_sub(1);
}

void Team::wake(std::atomic<int>& value, std::atomic<int>& sleepers) {
  value.fetch_add(1);
  if (sleepers.load()) value.notify_all();
}

Team::Team(int threads) : threads_(threads) {
  for (int index = 1; index < threads; ++index) others_.emplace_back([this, index] { follow(index); });
}

Team::~Team() {
  over_ = true;
  run_.fetch_add(1);
  run_.notify_all();
  for (std::thread& other : others_) other.join();
}

void Team::run(const std::function<void(Worker&)>& work) {
  std::lock_guard<std::mutex> lock(turn_);
  counters_[0].next = counters_[1].next = 0;
  work_ = &work;
  wake(run_, run_sleepers_);
  Worker worker(*this, 0);
  work(worker);
  worker.barrier();
}

void Team::follow(int index) {
  for (int seen = 0;; ++seen) {
    wait_while(run_, seen, run_sleepers_);
    if (over_) return;
    Worker worker(*this, index);
    (*work_)(worker);
    worker.barrier();
  }
}

int Worker::threads() const { return team_.threads_; }

Worker::Piece Worker::take(int total, int size) {
  const int begin = team_.counters_[stage_ % 2].next.fetch_add(size, std::memory_order_relaxed);
  if (begin >= total) return {total, total};
  return {begin, begin + size < total ? begin + size : total};
}

// Half of an even share of what is left, in multiples of `size`, at least one.
int Worker::half_share(int left, int size) const {
  return std::max(left / (2 * team_.threads_) / size * size, size);
}

Worker::Piece Worker::first_part(int total, int size) const {
  const int count = half_share(total, size), begin = std::min(total, index_ * count);
  return {begin, std::min(total, begin + count)};
}

Worker::Piece Worker::take_part(int total, int size) {
  const Piece first = first_part(total, size);
  if (!began_) {
    began_ = true;
    return first;
  }
  const int start = team_.threads_ * half_share(total, size);
  std::atomic<int>& next = team_.counters_[stage_ % 2].next;  // counts from `start`
  int taken = next.load(std::memory_order_relaxed), count;
  do {
    const int left = total - start - taken;
    if (left <= 0) return {total, total};
    count = std::min(left, half_share(left, size));
  } while (!next.compare_exchange_weak(taken, taken + count, std::memory_order_relaxed));
  return {start + taken, start + taken + count};
}

void Worker::barrier(Region next) {
  Team& team = team_;
  began_ = false;
  const int phase = team.phase_.load(std::memory_order_acquire);
  if (team.arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team.threads_) {
    team.counters_[stage_ % 2].next.store(0, std::memory_order_relaxed);  // all are done with this stage's
    team.arrived_.store(0, std::memory_order_relaxed);
    Team::wake(team.phase_, team.phase_sleepers_);
  } else {
    for (size_t at = 0; at < next.bytes && team.phase_.load(std::memory_order_acquire) == phase; at += 64)
      __builtin_prefetch(next.begin + at, 0, 2);
    Team::wait_while(team.phase_, phase, team.phase_sleepers_);
  }
  ++stage_;
}

}  // namespace gptwo
