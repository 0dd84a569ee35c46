#include "promises.h"

namespace sidetune::binding {

Completions::Completions(Napi::Env env)
    : wake_(Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "sidetune", 0, 1)), env_(env) {
  wake_.Unref(env);
}

void Completions::expect() {
  if (expected_++ == 0) wake_.Ref(env_);
}

void Completions::post(std::function<void(Napi::Env)> settle) {
  if (closed_) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ready_.push_back(std::move(settle));
  }
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
  if (closed_.exchange(true)) return;
  wake_.Release();
}

Napi::Value when_reached(Napi::Env env, Device& device, std::function<Napi::Value(Napi::Env)> make, std::function<void()> work) {
  if (device.closed()) throw Error(Code::device, "the device is closed");
  const auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  const auto completions = Addon::of(env).completions;
  completions->expect();
  device.stream().enqueue_wait([completions, deferred, make = std::move(make), work = std::move(work)](const Error* pending) {
    std::shared_ptr<Error> error = pending ? std::make_shared<Error>(*pending) : nullptr;
    if (!error && work) {
      try {
        work();
      } catch (const Error& failure) {
        error = std::make_shared<Error>(failure);
      }
    }
    completions->post([deferred, make, error](Napi::Env env) {
      try {
        error ? deferred->Reject(to_javascript(env, *error).Value()) : deferred->Resolve(make(env));
      } catch (const Napi::Error& failure) {
        deferred->Reject(failure.Value());
      } catch (const Error& failure) {
        deferred->Reject(to_javascript(env, failure).Value());
      }
    });
  });
  return deferred->Promise();
}

}  // namespace sidetune::binding
