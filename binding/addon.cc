#include "addon.h"

#include "native/check.h"
#include "promises.h"

namespace sidetune::binding {

#define KERNEL(family, Arguments) \
  template <>                     \
  void bind<Arguments>(Napi::Object exports);
#include "native/kernels.def"
#undef KERNEL

namespace {

// initialize(classes)
Napi::Value initialize(const Napi::CallbackInfo& info) {
  take_error_classes(info.Env(), info[0]);
  return info.Env().Undefined();
}

Napi::Value finalized_tensors(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(Addon::of(info.Env()).finalized_tensors));
}

// Bytes outside its heap that V8 has been told of, by everybody.
Napi::Value external_memory(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(account(info.Env(), 0)));
}

// The environment ends (exit, or a worker that is terminated): streams stop after the call that runs; tensors that are left go
// with their finalizers.
void clean_up(Addon* addon) {
  addon->completions->close();
  for (const auto& open : addon->devices)
    if (const auto device = open.lock()) device->close();
}

Napi::Object start(Napi::Env env, Napi::Object exports) {
  auto* addon = new Addon;
  addon->completions = std::make_shared<Completions>(env);
  env.SetInstanceData<Addon>(addon);
  env.AddCleanupHook(clean_up, addon);

  SIDETUNE_EXPORT(exports, "initialize", initialize);
  SIDETUNE_EXPORT(exports, "finalizedTensors", finalized_tensors);
  SIDETUNE_EXPORT(exports, "externalMemory", external_memory);
  bind_devices(exports);
  bind_replays(exports);
  bind_tensors(exports);
  Napi::Object kernels = Napi::Object::New(env);
#define KERNEL(family, Arguments) bind<Arguments>(kernels);
#include "native/kernels.def"
#undef KERNEL
  exports.Set("kernels", kernels);
  return exports;
}

}  // namespace
}  // namespace sidetune::binding

static Napi::Object start_addon(Napi::Env env, Napi::Object exports) { return sidetune::binding::start(env, exports); }
NODE_API_MODULE(sidetune, start_addon)
