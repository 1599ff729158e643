// A team of threads that run one function together, with barriers and shared counters between its stages.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gptwo {

class Team;

// Memory that a thread is going to read.
struct Region {
  const char* begin = nullptr;
  size_t bytes = 0;
};

// One thread's part in a run of the team.
class Worker {
 public:
  Worker(Team& team, int index) : team_(team), index_(index) {}
  int index() const { return index_; }
  int threads() const;

  // The next piece of `total` units, at most `size` of them: {begin, end}, empty when the stage has no more.
  struct Piece {
    int begin, end;
  };
  Piece take(int total, int size);
  // The same in large pieces that become smaller towards the end: half of an even share of what is left, in multiples
  // of `size`. The first of a stage is always the same for a thread: `first_part`.
  Piece take_part(int total, int size);
  Piece first_part(int total, int size) const;

  // Every thread waits here for the others, after which a new stage begins. While it waits it asks for the memory that
  // it will read first.
  void barrier(Region next = {});

 private:
  int half_share(int left, int size) const;

  Team& team_;
  int index_, stage_ = 0;
  bool began_ = false;  // took its first part of this stage
};

class Team {
 public:
  explicit Team(int threads);  // the calling thread is one of them
  ~Team();
  Team(const Team&) = delete;

  // Run `work` on every thread; returns when all are done. Calls from several threads take turns. `work` must not
  // throw.
  void run(const std::function<void(Worker&)>& work);
  int threads() const { return threads_; }

 private:
  friend class Worker;
  void follow(int index);
  static void wait_while(std::atomic<int>& value, int old, std::atomic<int>& sleepers);
  static void wake(std::atomic<int>& value, std::atomic<int>& sleepers);

  const int threads_;
  std::mutex turn_;
  std::vector<std::thread> others_;
  const std::function<void(Worker&)>* work_ = nullptr;
  // Each on a cache line of its own: threads spin on some while others write the rest.
  alignas(64) std::atomic<int> run_{0};
  alignas(64) std::atomic<int> run_sleepers_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
  alignas(64) std::atomic<int> phase_sleepers_{0};
  struct alignas(64) Counter {
    std::atomic<int> next{0};
  } counters_[2];
  bool over_ = false;
};

}  // namespace gptwo
