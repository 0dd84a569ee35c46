#include "stream.h"

#include <memory>
#include <new>
#include <utility>

#include "check.h"

namespace sidetune {
namespace {

// What `work` threw, or null.
template <class Work>
std::unique_ptr<Error> error_of(const Work& work) {
  try {
    work();
    return nullptr;
  } catch (const Error& error) {
    return std::make_unique<Error>(error);
  } catch (const std::bad_alloc&) {
    return std::make_unique<Error>(Code::memory, "out of memory");
  } catch (const std::exception& error) {
    return std::make_unique<Error>(Code::late, error.what());
  }
}

std::unique_ptr<Error> failure_of_call(const Error& error, const char* name, uint64_t call) {
  const std::string kernel = camel_case(name);
  return std::make_unique<Error>(
      error.code, kernel, "", "", "",
      kernel + " (call " + std::to_string(call) + ") failed: " + error.message + "; later calls were skipped");
}

}  // namespace

Stream::Stream(std::function<Status()> settle) : settle_(std::move(settle)), thread_([this] { work(); }) {}

Stream::~Stream() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
  const Error closed(Code::device, "the device was closed before the stream got here");
  for (Task& task : queue_)
    if (task.type == Task::wait) task.done(&closed);
}

void Stream::push(Task task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(task));
  }
  changed_.notify_one();
}

void Stream::enqueue(const char* kernel, std::function<Status()> run) {
  push({Task::kernel, kernel, ++calls_, std::move(run), nullptr, nullptr});
}

void Stream::enqueue_always(std::function<void()> run) { push({Task::always, "", calls_, nullptr, std::move(run), nullptr}); }

void Stream::enqueue_wait(std::function<void()> work, std::function<void(const Error*)> done) {
  push({Task::wait, "", calls_, nullptr, std::move(work), std::move(done)});
}

void Stream::work() {
  for (;;) {
    Task task;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (closing_) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    execute(task);
  }
}

void Stream::execute(Task& task) {
  switch (task.type) {
    case Task::kernel: {
      if (pending_) return;
      const std::unique_ptr<Error> error = error_of([&] {
        const Status status = task.run();
        if (!status.ok) throw Error(status.code, status.text);
        if (status.ticket != 0) started_.push_back({status.ticket, task.name, task.call});
      });
      if (error) pending_ = failure_of_call(*error, task.name, task.call);
      return;
    }
    case Task::always: {
      std::unique_ptr<Error> error = error_of(task.work);
      if (error && !pending_) pending_ = std::move(error);
      return;
    }
    case Task::wait: {
      std::unique_ptr<Error> error = settle();
      if (!error && task.work) error = error_of(task.work);
      task.done(error.get());
      return;
    }
  }
}

std::unique_ptr<Error> Stream::settle() {
  std::unique_ptr<Error> error = std::move(pending_);
  const std::vector<Started> started = std::exchange(started_, {});
  if (!settle_) return error;
  const Status status = settle_();
  if (status.ok) return error;
  // What was started ran before the call that made the pending error.
  for (const Started& call : started)
    if (call.ticket == status.ticket) return failure_of_call(Error(status.code, status.text), call.name, call.call);
  return error ? std::move(error) : std::make_unique<Error>(status.code, status.text);
}

}  // namespace sidetune
