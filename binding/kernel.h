// The one generic call: unpack -> check -> allocate -> queue. It knows no kernel. JavaScript calls
//
//   kernels.layerNormForward({ x, weight, bias, eps }, { save: true, wanted: { ... }, kind: 'activations' })  ->  { out, mean,
//   rstd }
//
// with handles for tensors; what comes back are the outputs that the call allocated.
#pragma once

#include <type_traits>

#include "addon.h"
#include "native/check.h"

namespace sidetune::binding {

// What the unpacked handles share. Reading properties may run JavaScript, which may dispose what was unpacked before: it is held
// until the call is queued.
struct Call {
  std::shared_ptr<Device> device;
  std::vector<std::shared_ptr<Storage>> held;
  std::vector<Storage*> changed;  // those of in_out fields and given outputs
  Kind kind = Kind::activations;  // of what the call allocates
  bool poison = false;            // tests: outputs and scratch hold NaN before the kernel runs
  double begun = 0;               // when its first tensor was unpacked, while a trace is recorded
  Wish wish;
};

// Fills the fields from the object; refuses unknown properties, foreign and disposed handles, handles of two devices.
void unpack(const char* kernel, const Napi::CallbackInfo& info, FieldList& fields, Call& call);
// A new storage for `view` (shape, dtype and layout are set) and its handle.
Napi::Object allocate(Napi::Env env, const std::shared_ptr<Device>& device, Tensor& view, Kind kind);
// Allocates the missing outputs and sets them by name.
void allocate_outputs(Napi::Object outputs, const std::vector<Field*>& missing, Call& call);
// After a failure: what was allocated goes back at once.
void release(const Napi::Object& outputs);
// Scratch memory of a call, while it is being queued.
struct Scratch {
  Scratch(Call& call, int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;

  Device& device;
  Block block;
  Workspace workspace;
};
// What a recorded call reads and writes.
void note_storages(Recorder& recorder, const Call& call);
[[noreturn]] void fail(const char* kernel, const Status& status);

template <class Arguments, class = void>
struct HasCheck : std::false_type {};
template <class Arguments>
struct HasCheck<Arguments, std::void_t<decltype(std::declval<const Arguments&>().check(""))>> : std::true_type {};

template <class Arguments, class = void>
struct HasWindow : std::false_type {};
template <class Arguments>
struct HasWindow<Arguments, std::void_t<decltype(std::declval<const Arguments&>().untouched_bytes())>> : std::true_type {};

// Bytes that a call moves: those of its fields, less those that it says it leaves alone.
template <class Arguments>
int64_t bytes_of_call(const Arguments& arguments, const FieldList& fields) {
  if constexpr (HasWindow<Arguments>::value) return bytes_moved(fields) - arguments.untouched_bytes();
  return bytes_moved(fields);
}

template <class Arguments>
struct KernelName;

template <class Arguments>
Napi::Value call_kernel(const Napi::CallbackInfo& info) {
  const char* kernel = KernelName<Arguments>::value;
  Arguments arguments;
  FieldList fields = fields_of(arguments);
  Call call;
  unpack(kernel, info, fields, call);
  const std::vector<Field*> missing = check(kernel, fields, call.wish);
  if constexpr (HasCheck<Arguments>::value) arguments.check(kernel);

  Device& device = *call.device;
  const Entry<Arguments>& entry = device.table().kernels.template entry<Arguments>();
  Napi::Object outputs = Napi::Object::New(info.Env());
  try {
    allocate_outputs(outputs, missing, call);
    int64_t bytes = 0;
    const Status status = entry.workspace(device.backend(), arguments, &bytes);
    if (!status.ok) fail(kernel, status);
    // Scratch goes back as soon as the call is queued: the next one may reuse it.
    const Scratch scratch(call, bytes);
    for (Storage* storage : call.changed) storage->version = device.next_version();
    if (Recorder* recorder = device.recorder()) note_storages(*recorder, call);
    TraceNote note;
    if (device.trace()) note = {call.begun, call_text(fields), bytes_of_call(arguments, fields), arguments.flops()};
    device.enqueue(
        kernel,
        [&device, &entry, arguments, workspace = scratch.workspace] { return entry.run(device.backend(), arguments, workspace); },
        std::move(note));
  } catch (...) {
    release(outputs);
    throw;
  }
  return outputs;
}

// layerNormForward.describe() -> JSON of the fields; layerNormForward.measure(object) -> { bytes, flops } of a call, without
// making it.
template <class Arguments>
Napi::Value describe_kernel(const Napi::CallbackInfo& info) {
  Arguments arguments;
  return Napi::String::New(info.Env(),
                           describe(KernelName<Arguments>::value, KernelName<Arguments>::family, fields_of(arguments)));
}

template <class Arguments>
Napi::Value measure_kernel(const Napi::CallbackInfo& info) {
  const char* kernel = KernelName<Arguments>::value;
  Arguments arguments;
  FieldList fields = fields_of(arguments);
  Call call;
  unpack(kernel, info, fields, call);
  for (Field* field : check(kernel, fields, call.wish)) field->tensor->data = field->tensor;  // counted as present, never touched
  Napi::Object measure = Napi::Object::New(info.Env());
  measure.Set("bytes", static_cast<double>(bytes_of_call(arguments, fields)));
  measure.Set("flops", arguments.flops());
  return measure;
}

}  // namespace sidetune::binding

#define SIDETUNE_BIND(Arguments, stem)                                                                             \
  namespace sidetune::binding {                                                                                    \
  template <>                                                                                                      \
  struct KernelName<Arguments> {                                                                                   \
    static constexpr const char* value = #Arguments;                                                               \
    static constexpr const char* family = #stem;                                                                   \
  };                                                                                                               \
  template <>                                                                                                      \
  void bind<Arguments>(Napi::Object exports) {                                                                     \
    const std::string name = camel_case(#Arguments);                                                               \
    Napi::Function function = Napi::Function::New<guarded<call_kernel<Arguments>>>(exports.Env(), name);           \
    function.Set("describe", Napi::Function::New<guarded<describe_kernel<Arguments>>>(exports.Env(), "describe")); \
    function.Set("measure", Napi::Function::New<guarded<measure_kernel<Arguments>>>(exports.Env(), "measure"));    \
    exports.Set(name, function);                                                                                   \
  }                                                                                                                \
  }
