#include "native/replay.h"

#include "addon.h"
#include "native/device.h"

namespace sidetune::binding {
namespace {

constexpr napi_type_tag kReplayTag = {0x2f6d0c51b7e84a39, 0xa4c3915e07d2f86b};

Replay& unwrap_replay(Napi::Value value) {
  bool tagged = false;
  void* data = nullptr;
  if (value.IsObject() && napi_check_object_type_tag(value.Env(), value, &kReplayTag, &tagged) == napi_ok && tagged &&
      napi_unwrap(value.Env(), value, &data) == napi_ok) {
    return *static_cast<Replay*>(data);
  }
  throw Error(Code::argument, "expected a replay");
}

Napi::Value start(const Napi::CallbackInfo& info) {
  unwrap_device(info[0])->start_recording();
  return info.Env().Undefined();
}

// stopRecording(device, whether the calls are wanted) -> replay, or undefined
Napi::Value stop(const Napi::CallbackInfo& info) {
  const auto device = unwrap_device(info[0]);
  if (!info[1].ToBoolean()) {
    device->drop_recording();
    return info.Env().Undefined();
  }
  std::unique_ptr<Replay> replay = device->stop_recording();
  Napi::Object object = Napi::Object::New(info.Env());
  const napi_status status = napi_wrap(
      info.Env(), object, replay.get(), [](napi_env, void* data, void*) { delete static_cast<Replay*>(data); }, nullptr, nullptr);
  if (status != napi_ok || napi_type_tag_object(info.Env(), object, &kReplayTag) != napi_ok)
    throw Error(Code::argument, "cannot make a replay handle");
  replay.release();
  return object;
}

Napi::Value run(const Napi::CallbackInfo& info) {
  unwrap_replay(info[0]).run();
  return info.Env().Undefined();
}

Napi::Value dispose(const Napi::CallbackInfo& info) {
  unwrap_replay(info[0]).dispose();
  return info.Env().Undefined();
}

Napi::Value calls(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(unwrap_replay(info[0]).calls()));
}

}  // namespace

void bind_replays(Napi::Object exports) {
  SIDETUNE_EXPORT(exports, "deviceStartRecording", start);
  SIDETUNE_EXPORT(exports, "deviceStopRecording", stop);
  SIDETUNE_EXPORT(exports, "replayRun", run);
  SIDETUNE_EXPORT(exports, "replayDispose", dispose);
  SIDETUNE_EXPORT(exports, "replayCalls", calls);
}

}  // namespace sidetune::binding
