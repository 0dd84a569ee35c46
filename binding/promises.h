// Promises that a stream settles: the stream's thread leaves a completion here, and the environment's own thread runs it.
#pragma once

#include <mutex>
#include <vector>

#include "addon.h"

namespace sidetune::binding {

class Completions {
 public:
  explicit Completions(Napi::Env env);
  // Called on the environment's thread for each promise made; the process stays alive while any is open.
  void expect();
  // Called on any thread. What `settle` holds is let go on the environment's thread, or with this object.
  void post(std::function<void(Napi::Env)> settle);
  // The environment ends: nothing is settled any more.
  void close();

 private:
  void run(Napi::Env env);

  Napi::ThreadSafeFunction wake_;
  std::mutex mutex_;  // guards the two below, and wake_ against its end
  std::vector<std::function<void(Napi::Env)>> ready_;
  bool closed_ = false;
  int64_t expected_ = 0;  // promises open; the environment's thread only
  Napi::Env env_;
};

// A promise that settles when the device's stream gets here: rejected with the pending error, or with what `work` throws on the
// stream's thread, else resolved with make(env). Rejected when the device is closed before. An open promise keeps its device.
Napi::Value when_reached(Napi::Env env, const std::shared_ptr<Device>& device, std::function<Napi::Value(Napi::Env)> make,
                         std::function<void()> work = nullptr);

}  // namespace sidetune::binding
