// Promises that a stream settles: the stream's thread leaves a completion here, and the environment's own thread runs it.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "addon.h"

namespace sidetune::binding {

class Completions {
 public:
  explicit Completions(Napi::Env env);
  // Called on the environment's thread for each promise made; the process stays alive while any is open.
  void expect();
  // Called on any thread.
  void post(std::function<void(Napi::Env)> settle);
  void close();

 private:
  void run(Napi::Env env);

  Napi::ThreadSafeFunction wake_;
  std::mutex mutex_;
  std::vector<std::function<void(Napi::Env)>> ready_;
  int64_t expected_ = 0;  // promises open; the environment's thread only
  std::atomic<bool> closed_{false};
  Napi::Env env_;
};

// A promise that settles when the device's stream gets here: rejected with the pending error, else resolved with make(env).
Napi::Value when_reached(Napi::Env env, Device& device, std::function<Napi::Value(Napi::Env)> make, std::function<void()> work = nullptr);

}  // namespace sidetune::binding
