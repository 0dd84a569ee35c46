#include <algorithm>

#include "addon.h"
#include "native/check.h"
#include "promises.h"

namespace sidetune::binding {
namespace {

constexpr napi_type_tag kDeviceTag = {0x51de7a3ef0a94c11, 0x8be2d06bb2d1c7a5};

int64_t integer_option(const Napi::Object& options, const char* name) {
  const Napi::Value value = options.Get(name);
  if (value.IsUndefined()) return 0;
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 1 && number <= 9007199254740991.0) || number != static_cast<double>(static_cast<int64_t>(number))) {
    const std::string got = text_of(value);
    throw Error(Code::argument, "Device.open", name, got, "a whole number of at least 1",
                std::string("Device.open: '") + name + "' is " + got + ", expected a whole number of at least 1");
  }
  return static_cast<int64_t>(number);
}

Napi::Value open(const Napi::CallbackInfo& info) {
  const auto expect = [](bool right, const char* argument, const Napi::Value& value, const std::string& expected) {
    const std::string got = text_of(value);
    if (!right)
      throw Error(Code::argument, "Device.open", argument, got, expected,
                  std::string("Device.open: '") + argument + "' is " + got + ", expected " + expected);
  };
  expect(info[0].IsString(), "name", info[0], "a string");
  expect(info[1].IsObject(), "options", info[1], "an object");
  const Napi::Object options = info[1].As<Napi::Object>();
  DeviceSettings settings;
  settings.backend.threads = static_cast<int>(std::min<int64_t>(integer_option(options, "threads"), 1 << 20));
  settings.memory_limit = integer_option(options, "memoryLimit");
  settings.backend.tf32 = options.Get("tf32").ToBoolean();
  settings.plan = options.Get("plan").ToBoolean();
  settings.guards = options.Get("guards").ToBoolean();
  const auto device = Device::open(info[0].ToString().Utf8Value(), settings);
  auto& devices = Addon::of(info.Env()).devices;
  devices.erase(std::remove_if(devices.begin(), devices.end(), [](const auto& other) { return other.expired(); }), devices.end());
  devices.push_back(device);
  return wrap(info.Env(), device);
}

// deviceCount("cpu" | "cuda" | "cuda-emulated"): how many there are; throws with the reason where there can be none.
Napi::Value count(const Napi::CallbackInfo& info) {
  const std::string name = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
  if (name != "cpu" && name != "cuda" && name != "cuda-emulated") {
    const std::string got = text_of(info[0]), expected = "'cpu', 'cuda' or 'cuda-emulated'";
    throw Error(Code::argument, "deviceCount", "backend", got, expected,
                "deviceCount: 'backend' is " + got + ", expected " + expected);
  }
  const BackendTable& table = name == "cpu" ? cpu_backend() : library_backend(name);
  int devices = 0;
  const Status status = table.count(&devices);
  if (!status.ok) throw Error(status.code, status.text);
  return Napi::Number::New(info.Env(), devices);
}

Napi::Value close(const Napi::CallbackInfo& info) {
  unwrap_device(info[0])->close();
  return info.Env().Undefined();
}

Napi::Value synchronize(const Napi::CallbackInfo& info) {
  const auto device = unwrap_device(info[0]);
  return when_reached(
      info.Env(), device, [](Napi::Env env) { return env.Undefined(); },
      [&device = *device] {
        const Status status = device.table().synchronize(device.backend());
        if (!status.ok) throw Error(status.code, status.text);
      });
}

Napi::Value check_guards(const Napi::CallbackInfo& info) {
  const auto device = unwrap_device(info[0]);
  const auto problem = std::make_shared<std::string>();
  device->check_guards([problem](std::string text) { *problem = std::move(text); });
  return when_reached(info.Env(), device, [problem](Napi::Env env) -> Napi::Value {
    return problem->empty() ? env.Null() : Napi::Value(Napi::String::New(env, *problem));
  });
}

// Queues a call that fails: how late errors behave is tested with it.
Napi::Value fail(const Napi::CallbackInfo& info) {
  unwrap_device(info[0])->enqueue("failOnPurpose", [] {
    Status status;
    status.ok = false;
    snprintf(status.text, sizeof status.text, "asked to fail");
    return status;
  });
  return info.Env().Undefined();
}

Napi::Value memory(const Napi::CallbackInfo& info) {
  const MemoryReport& report = unwrap_device(info[0])->arena().report();
  const Napi::Env env = info.Env();
  const auto by_kind = [&](const int64_t(&bytes)[kKinds]) {
    Napi::Object object = Napi::Object::New(env);
    for (int kind = 0; kind < kKinds; kind++) object.Set(name_of(static_cast<Kind>(kind)), static_cast<double>(bytes[kind]));
    return object;
  };
  Napi::Object object = Napi::Object::New(env);
  object.Set("currentBytes", static_cast<double>(report.current_total));
  object.Set("peakBytes", static_cast<double>(report.peak_total));
  object.Set("limitBytes", static_cast<double>(report.limit));
  object.Set("blocks", static_cast<double>(report.blocks));
  object.Set("current", by_kind(report.current));
  object.Set("atPeak", by_kind(report.at_peak));
  object.Set("peak", by_kind(report.peak));
  return object;
}

Napi::Value reset_peak(const Napi::CallbackInfo& info) {
  unwrap_device(info[0])->arena().reset_peak();
  return info.Env().Undefined();
}

// startTrace(device, most calls that are recorded)
Napi::Value start_trace(const Napi::CallbackInfo& info) {
  unwrap_device(info[0])->start_trace(info[1].ToNumber().Int64Value());
  return info.Env().Undefined();
}

// traceLabel(device, text): what calls from now on belong to.
Napi::Value trace_label(const Napi::CallbackInfo& info) {
  const auto device = unwrap_device(info[0]);
  std::string label = info[1].ToString().Utf8Value();  // may run JavaScript, which may stop the trace
  if (Trace* trace = device->trace()) trace->set_label(std::move(label));
  return info.Env().Undefined();
}

// stopTrace(device) -> { calls, droppedCalls }; `ranFrom` and `ranTo` are missing in calls that have not run.
Napi::Value stop_trace(const Napi::CallbackInfo& info) {
  const auto trace = unwrap_device(info[0])->stop_trace();
  const Napi::Env env = info.Env();
  const std::vector<TracedCall> calls = trace->calls();
  Napi::Array list = Napi::Array::New(env, calls.size());
  for (uint32_t i = 0; i < calls.size(); i++) {
    const Napi::HandleScope scope(env);
    const TracedCall& call = calls[i];
    Napi::Object object = Napi::Object::New(env);
    object.Set("kernel", camel_case(call.kernel));
    if (call.call > 0) object.Set("call", static_cast<double>(call.call));
    object.Set("label", call.label);
    object.Set("text", call.note.text);
    object.Set("bytes", static_cast<double>(call.note.bytes));
    object.Set("flops", call.note.flops);
    object.Set("begun", call.note.begun);
    object.Set("queued", call.queued);
    if (call.ran_from >= 0) {
      object.Set("ranFrom", call.ran_from);
      object.Set("ranTo", call.ran_to);
    }
    list.Set(i, object);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("calls", list);
  result.Set("droppedCalls", static_cast<double>(trace->dropped()));
  return result;
}

Napi::Value describe(const Napi::CallbackInfo& info) {
  const auto device = unwrap_device(info[0]);
  char text[1024] = "{}";
  device->table().describe(device->backend(), text, sizeof text);
  return Napi::String::New(info.Env(), text);
}

}  // namespace

Napi::Object wrap(Napi::Env env, std::shared_ptr<Device> device) {
  Napi::Object object = Napi::Object::New(env);
  auto* owned = new std::shared_ptr<Device>(std::move(device));
  const napi_status status = napi_wrap(
      env, object, owned, [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Device>*>(data); }, nullptr,
      nullptr);
  if (status != napi_ok || napi_type_tag_object(env, object, &kDeviceTag) != napi_ok)
    throw Error(Code::argument, "cannot make a device handle");
  return object;
}

std::shared_ptr<Device> unwrap_device(Napi::Value value) {
  bool tagged = false;
  void* data = nullptr;
  if (value.IsObject() && napi_check_object_type_tag(value.Env(), value, &kDeviceTag, &tagged) == napi_ok && tagged &&
      napi_unwrap(value.Env(), value, &data) == napi_ok) {
    return *static_cast<std::shared_ptr<Device>*>(data);
  }
  throw Error(Code::argument, "expected a device");
}

void bind_devices(Napi::Object exports) {
  SIDETUNE_EXPORT(exports, "deviceOpen", open);
  SIDETUNE_EXPORT(exports, "deviceCount", count);
  SIDETUNE_EXPORT(exports, "deviceClose", close);
  SIDETUNE_EXPORT(exports, "deviceSynchronize", synchronize);
  SIDETUNE_EXPORT(exports, "deviceMemory", memory);
  SIDETUNE_EXPORT(exports, "deviceResetPeak", reset_peak);
  SIDETUNE_EXPORT(exports, "deviceDescribe", describe);
  SIDETUNE_EXPORT(exports, "deviceCheckGuards", check_guards);
  SIDETUNE_EXPORT(exports, "deviceFailOnPurpose", fail);
  SIDETUNE_EXPORT(exports, "deviceStartTrace", start_trace);
  SIDETUNE_EXPORT(exports, "deviceTraceLabel", trace_label);
  SIDETUNE_EXPORT(exports, "deviceStopTrace", stop_trace);
}

}  // namespace sidetune::binding
