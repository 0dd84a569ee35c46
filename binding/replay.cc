#include "native/replay.h"

#include <algorithm>

#include "addon.h"
#include "native/device.h"

namespace sidetune::binding {
namespace {

constexpr napi_type_tag kReplayTag = {0x2f6d0c51b7e84a39, 0xa4c3915e07d2f86b};

// What JavaScript sees of the inputs and results: several tensors may look at one of their storages.
struct ReplayHandle {
  struct View {
    size_t storage;
    Tensor tensor;
  };
  std::vector<View> inputs, results;
  std::unique_ptr<Replay> replay;
};

ReplayHandle& unwrap_replay(Napi::Value value) {
  bool tagged = false;
  void* data = nullptr;
  if (value.IsObject() && napi_check_object_type_tag(value.Env(), value, &kReplayTag, &tagged) == napi_ok && tagged &&
      napi_unwrap(value.Env(), value, &data) == napi_ok) {
    return *static_cast<ReplayHandle*>(data);
  }
  throw Error(Code::argument, "expected a replay");
}

// The storages behind an array of tensors, each once, and how the tensors look at them.
std::vector<std::shared_ptr<Storage>> storages_of(const Napi::Value& value, const Device& device,
                                                  std::vector<ReplayHandle::View>& views) {
  if (!value.IsArray()) throw Error(Code::argument, "expected an array of tensors");
  const Napi::Array tensors = value.As<Napi::Array>();
  std::vector<std::shared_ptr<Storage>> storages;
  const uint32_t count = tensors.Length();
  for (uint32_t i = 0; i < count; i++) {
    const TensorHandle& handle = live_tensor(tensors.Get(i));
    if (handle.storage->device.get() != &device) throw Error(Code::device, "record: a tensor lives on another device");
    const size_t index = std::find(storages.begin(), storages.end(), handle.storage) - storages.begin();
    if (index == storages.size()) storages.push_back(handle.storage);
    views.push_back({index, handle.view});
  }
  return storages;
}

Napi::Array handles_of(Napi::Env env, const std::vector<std::shared_ptr<Storage>>& storages,
                       const std::vector<ReplayHandle::View>& views) {
  Napi::Array handles = Napi::Array::New(env, views.size());
  for (uint32_t i = 0; i < views.size(); i++)
    handles.Set(i, wrap(env, TensorHandle{storages[views[i].storage], views[i].tensor}));
  return handles;
}

// startRecording(device, inputs) -> replay, which records until stopRecording
Napi::Value start(const Napi::CallbackInfo& info) {
  const auto device = unwrap_device(info[0]);
  auto handle = std::make_unique<ReplayHandle>();
  device->start_recording(storages_of(info[1], *device, handle->inputs));
  Napi::Object object = Napi::Object::New(info.Env());
  const napi_status status = napi_wrap(
      info.Env(), object, handle.get(), [](napi_env, void* data, void*) { delete static_cast<ReplayHandle*>(data); }, nullptr,
      nullptr);
  if (status != napi_ok) device->drop_recording();
  if (status != napi_ok) throw Error(Code::argument, "cannot make a replay handle");
  handle.release();
  if (napi_type_tag_object(info.Env(), object, &kReplayTag) == napi_ok) return object;
  device->drop_recording();
  throw Error(Code::argument, "cannot make a replay handle");
}

// stopRecording(device, replay, results)
Napi::Value stop(const Napi::CallbackInfo& info) {
  const auto device = unwrap_device(info[0]);
  ReplayHandle& handle = unwrap_replay(info[1]);
  const auto results = storages_of(info[2], *device, handle.results);
  handle.replay = device->stop_recording(results);
  return info.Env().Undefined();
}

// dropRecording(device): after a failure
Napi::Value drop(const Napi::CallbackInfo& info) {
  unwrap_device(info[0])->drop_recording();
  return info.Env().Undefined();
}

Replay& recorded(const Napi::CallbackInfo& info) {
  ReplayHandle& handle = unwrap_replay(info[0]);
  if (!handle.replay) throw Error(Code::device, "replay: its calls are still being recorded");
  return *handle.replay;
}

// replayInputs(replay) -> tensor handles, to be filled and disposed before replayRun
Napi::Value inputs(const Napi::CallbackInfo& info) {
  return handles_of(info.Env(), recorded(info).take_inputs(), unwrap_replay(info[0]).inputs);
}

// replayRun(replay) -> tensor handles of the results
Napi::Value run(const Napi::CallbackInfo& info) {
  return handles_of(info.Env(), recorded(info).run(), unwrap_replay(info[0]).results);
}

// replayObstacle(replay) -> why it cannot run now, or undefined
Napi::Value obstacle(const Napi::CallbackInfo& info) {
  const char* problem = recorded(info).obstacle();
  return problem ? Napi::Value(Napi::String::New(info.Env(), problem)) : info.Env().Undefined();
}

Napi::Value dispose(const Napi::CallbackInfo& info) {
  if (const auto& replay = unwrap_replay(info[0]).replay) replay->dispose();
  return info.Env().Undefined();
}

Napi::Value calls(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(recorded(info).calls()));
}

}  // namespace

void bind_replays(Napi::Object exports) {
  SIDETUNE_EXPORT(exports, "deviceStartRecording", start);
  SIDETUNE_EXPORT(exports, "deviceStopRecording", stop);
  SIDETUNE_EXPORT(exports, "deviceDropRecording", drop);
  SIDETUNE_EXPORT(exports, "replayInputs", inputs);
  SIDETUNE_EXPORT(exports, "replayRun", run);
  SIDETUNE_EXPORT(exports, "replayObstacle", obstacle);
  SIDETUNE_EXPORT(exports, "replayDispose", dispose);
  SIDETUNE_EXPORT(exports, "replayCalls", calls);
}

}  // namespace sidetune::binding
