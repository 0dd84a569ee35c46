// A device's stream: calls run one after another, in the order in which they were queued, on one native thread. The first error
// wins and is kept until somebody waits (read, synchronize); calls queued in between are skipped; afterwards the stream works
// again. A call that was only started (Status::ticket) may fail later: whoever waits hears of it in the same words.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "error.h"

namespace sidetune {

class Stream {
 public:
  // `settle` is BackendTable::settle; null where no call has a ticket.
  explicit Stream(std::function<Status()> settle = nullptr);
  ~Stream();  // finishes the call that runs, drops the rest; whoever waits hears that the device was closed
  Stream(const Stream&) = delete;

  // A call of a kernel: skipped while an error is pending; a failed status becomes the pending error, named by kernel and call
  // number.
  void enqueue(const char* kernel, std::function<Status()> run);
  // Housekeeping that must happen whether or not an earlier call failed.
  void enqueue_always(std::function<void()> run);
  // Somebody waits: `work` (may be null) runs unless an error is pending; `done` gets that error, which is then forgotten, or
  // what `work` threw, or null. `done` is called exactly once, on the stream's thread or, when the stream ends before, on the
  // thread that ends it.
  void enqueue_wait(std::function<void()> work, std::function<void(const Error*)> done);

  uint64_t calls() const { return calls_; }

 private:
  struct Task {
    enum { kernel, always, wait } type;
    const char* name;
    uint64_t call;
    std::function<Status()> run;
    std::function<void()> work;
    std::function<void(const Error*)> done;
  };
  void push(Task task);
  void work();
  void execute(Task& task);
  // The error that whoever waits now hears, or null.
  std::unique_ptr<Error> settle();

  struct Started {
    uint64_t ticket;
    const char* name;
    uint64_t call;
  };

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> queue_;
  bool closing_ = false;
  uint64_t calls_ = 0;
  const std::function<Status()> settle_;
  // The stream thread's own.
  std::unique_ptr<Error> pending_;
  std::vector<Started> started_;  // calls with a ticket since somebody waited
  std::thread thread_;
};

}  // namespace sidetune
