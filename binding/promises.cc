#include "promises.h"

#include <optional>

namespace sidetune::binding {
namespace {

// Once settled it may hold the last reference to the device, whose end waits for the stream's thread: it must not die there.
struct OpenPromise {
  Napi::Promise::Deferred deferred;
  std::shared_ptr<Device> device;
  std::function<Napi::Value(Napi::Env)> make;
  std::optional<Error> error;

  void settle(Napi::Env env) {
    try {
      error ? deferred.Reject(to_javascript(env, *error).Value()) : deferred.Resolve(make(env));
    } catch (const Napi::Error& failure) {
      deferred.Reject(failure.Value());
    }
  }
};

}  // namespace

Completions::Completions(Napi::Env env)
    : wake_(Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "sidetune", 0, 1)),
      env_(env) {
  wake_.Unref(env);
}

void Completions::expect() {
  if (expected_++ == 0) wake_.Ref(env_);
}

void Completions::post(std::function<void(Napi::Env)> settle) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ready_.push_back(std::move(settle));
  if (closed_) return;
  wake_.NonBlockingCall([this](Napi::Env env, Napi::Function) {
    if (static_cast<napi_env>(env) != nullptr) run(env);
  });
}

void Completions::run(Napi::Env env) {
  std::vector<std::function<void(Napi::Env)>> ready;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ready.swap(ready_);
  }
  const Napi::HandleScope scope(env);
  for (const auto& settle : ready) {
    if (--expected_ == 0) wake_.Unref(env);
    settle(env);
  }
}

void Completions::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  closed_ = true;
  wake_.Release();
}

Napi::Value when_reached(Napi::Env env, const std::shared_ptr<Device>& device, std::function<Napi::Value(Napi::Env)> make,
                         std::function<void()> work) {
  Stream& stream = device->stream();
  auto promise =
      std::make_shared<OpenPromise>(OpenPromise{Napi::Promise::Deferred::New(env), device, std::move(make), std::nullopt});
  const Napi::Promise result = promise->deferred.Promise();
  const auto completions = Addon::of(env).completions;
  completions->expect();
  stream.enqueue_wait(std::move(work), [completions, promise = std::move(promise)](const Error* error) mutable {
    if (error) promise->error = *error;
    completions->post([promise = std::move(promise)](Napi::Env env) { promise->settle(env); });
  });
  return result;
}

}  // namespace sidetune::binding
