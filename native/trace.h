// What a device ran and when, recorded while somebody wants to see it (lib/trace.ts draws it). JavaScript's thread adds a call as
// it queues it; the stream's thread adds when the call ran. One that was skipped after an error, or not reached before the device
// closed, has no such time. Times are microseconds of the steady clock since the trace began.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace sidetune {

// What the one who queues a call knows of it; made only while a trace is recorded.
struct TraceNote {
  double begun = 0;   // when JavaScript began the call
  std::string text;   // a kernel's tensors and options
  int64_t bytes = 0;  // that must move
  double flops = 0;
};

struct TracedCall {
  const char* kernel;
  uint64_t call;      // its number on the stream; 0: a read, which has none
  std::string label;  // the part of the model that queued it
  TraceNote note;
  double queued = 0;  // when JavaScript was done with it
  double ran_from = -1, ran_to = -1;
};

class Trace : public std::enable_shared_from_this<Trace> {
 public:
  // Beyond `limit` calls nothing is recorded; they are counted.
  explicit Trace(int64_t limit) : limit_(limit) {}

  double now() const { return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start_).count(); }

  // JavaScript's thread: what calls from now on belong to.
  void set_label(std::string label) { label_ = std::move(label); }
  // JavaScript's thread: a call that is being queued. What comes back is to be queued in the place of `run`: it records when it
  // ran.
  template <class Result>
  std::function<Result()> add(const char* kernel, uint64_t call, TraceNote note, std::function<Result()> run) {
    const int64_t index = append(kernel, call, std::move(note));
    if (index < 0) return run;
    return [trace = shared_from_this(), index, run = std::move(run)] {
      const Timer timer(*trace, index);
      return run();
    };
  }
  // JavaScript's thread: the call added last is queued.
  void queued();

  // In the order of calls.
  std::vector<TracedCall> calls() const;
  int64_t dropped() const { return dropped_; }

 private:
  struct Timer {
    Timer(Trace& trace, int64_t index) : trace(trace), index(index), from(trace.now()) {}
    ~Timer() { trace.ran(index, from, trace.now()); }
    Timer(const Timer&) = delete;

    Trace& trace;
    const int64_t index;
    const double from;
  };
  // The call's place, or −1 when the trace is full.
  int64_t append(const char* kernel, uint64_t call, TraceNote note);
  void ran(int64_t index, double from, double to);

  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  const int64_t limit_;
  mutable std::mutex mutex_;  // guards calls_, which both threads write
  std::vector<TracedCall> calls_;
  std::string label_;
  int64_t dropped_ = 0;
  bool is_open_ = false;  // the call added last was recorded and is being queued
};

}  // namespace sidetune
