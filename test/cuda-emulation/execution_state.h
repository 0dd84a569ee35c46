// The state of the grid that an operating system's thread runs.
#pragma once

#include <array>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "configuration.h"
#include "execution.h"
#include "fiber.h"
#include "memory.h"

namespace sidetune::emulation {

enum class Wait { none, barrier, warp, ended };

// A thread's asynchronous copies that it has not waited for, first begun first.
struct Copies {
  struct Copy {
    void* shared;
    const void* global;  // null: zeros
    Place place;
  };
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> open;  // not committed yet
};

struct Thread {
  int fiber = -1;
  Wait wait = Wait::none;
  Place place = {"", 0};
  const char* name = "";  // of the warp operation it waits in
};

struct Meeting {
  unsigned mask, arrived;
  const char* name;
  Place place;
  std::array<void*, 32> brought;
};

struct Warp {
  unsigned exited = 0;
  std::vector<Meeting> meetings;  // of different lanes
};

// A queue of threads, each at most once in it.
class Ready {
 public:
  void clear() { begin_ = end_ = 0; }
  bool empty() const { return begin_ == end_; }
  int front() const { return threads_[begin_ % threads_.size()]; }
  void pop_front() { begin_++; }
  void push_back(int thread) { threads_[end_++ % threads_.size()] = thread; }

 private:
  std::array<int, 1024> threads_;
  uint64_t begin_ = 0, end_ = 0;
};

class Execution {
 public:
  static constexpr int kMostThreads = 1024;

  Execution();
  void run(const Launch& launch);

  const Launch& launch() const { return *launch_; }
  int thread() const { return thread_; }
  bool is_on_stack(const void* address) const { return stacks_.contains(address); }
  Copies& copies_of_thread();
  Place place() const { return threads_[thread_].place; }

  int block_barrier(Barrier kind, int predicate, Place place);
  void warp_meeting(const char* name, unsigned mask, void* brought, Complete complete, Place place);
  // Reports what the thread that runs did wrong ("kernel f, block (0, 0, 0), thread (1, 0, 0), file:1: ...") and leaves the grid.
  // The place may be {}.
  [[noreturn, gnu::format(printf, 3, 4)]] void fail(Place place, const char* format, ...);

  // The allocation that the last asynchronous copy read: the next one reads it, too, as a rule.
  Allocation copied_from = {};

 private:
  bool is_left_out(Place place) const;
  void run_block(int64_t block);
  void permute(std::vector<int>& order);
  void start_fiber(Fiber& from);
  void give_up_fibers();
  [[noreturn]] void run_threads();
  void set_thread_index();
  void end_thread();
  Fiber& next_ready();
  void wait();
  void wake_block();
  [[noreturn]] void fail_deadlock();
  void report_by_thread(Place place, const char* what) const;

  const Launch* launch_ = nullptr;
  Order order_ = Order::ascending;
  std::mt19937_64 random_;
  std::string left_out_file_;
  int left_out_line_ = 0;
  bool failed_ = false;

  Stacks stacks_;
  std::vector<Fiber> fibers_;  // one a stack
  std::vector<bool> has_begun_;
  std::vector<int> free_fibers_;  // not begun yet, or done with their threads
  Fiber main_;
  int fiber_ = 0, thread_ = 0;  // that run

  int thread_count_ = 0;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> index_of_place_;  // in the order of turns
  int unstarted_ = 0;                // first place whose thread has not begun
  Ready ready_;
  int exited_ = 0;

  int at_barrier_ = 0;  // threads that wait there
  Place barrier_place_ = {"", 0};
  Barrier barrier_kind_ = Barrier::plain;
  int barrier_sum_ = 0, barrier_result_ = 0;

  std::vector<Copies> copies_;  // empty until a thread of the block begins one
};

// The grid that runs on this thread, or null.
extern __thread Execution* running;
// The same; reports when there is none.
Execution& execution();

}  // namespace sidetune::emulation
