#include "stream.h"

#include <memory>

#include "check.h"

namespace sidetune {

Stream::Stream() : thread_([this] { work(); }) {}

Stream::~Stream() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Stream::push(Task task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(task));
  }
  changed_.notify_one();
}

void Stream::enqueue(const char* kernel, std::function<Status()> run) {
  Task task{Task::kernel, kernel, ++calls_, std::move(run), nullptr, nullptr};
  push(std::move(task));
}

void Stream::enqueue_always(std::function<void()> run) { push({Task::always, "", calls_, nullptr, std::move(run), nullptr}); }

void Stream::enqueue_wait(std::function<void(const Error*)> run) { push({Task::wait, "", calls_, nullptr, nullptr, std::move(run)}); }

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
      const Status status = task.run();
      if (!status.ok) {
        const std::string kernel = camel_case(task.name);
        pending_ = std::make_unique<Error>(status.code, kernel, "", "", "",
                                           kernel + " (call " + std::to_string(task.call) + ") failed: " + status.text + "; later calls were skipped");
      }
      return;
    }
    case Task::always: task.run_always(); return;
    case Task::wait: {
      const std::unique_ptr<Error> error = std::move(pending_);
      task.run_wait(error.get());
      return;
    }
  }
}

}  // namespace sidetune
