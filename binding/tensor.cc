#include <cmath>

#include "addon.h"
#include "kernel.h"
#include "promises.h"

namespace sidetune::binding {
namespace {

constexpr napi_type_tag kTensorTag = {0x7e4501de6c0b4f2d, 0x93a7f1c845d0be19};
// V8 hears of blocks of this size and more; smaller ones are not worth the call.
constexpr int64_t kAccountedBytes = 1 << 16;

bool is_accounted(const Storage& storage) { return storage.block.bytes >= kAccountedBytes && !storage.device->settings().plan; }

template <class E>
E parse(const Napi::Value& value, const char* what, int count, const char* (*name)(E)) {
  const std::string wanted = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  std::string known;
  for (int i = 0; i < count; i++) {
    if (wanted == name(static_cast<E>(i))) return static_cast<E>(i);
    known += (i ? ", " : "") + std::string(name(static_cast<E>(i)));
  }
  const std::string got = text_of(value);
  throw Error(Code::argument, "Tensor", what, got, known,
              std::string("Tensor: '") + what + "' is " + got + ", expected one of " + known);
}

Tensor parse_shape(const Napi::Value& value) {
  Tensor view;
  const auto refuse = [&](const std::string& got) {
    const std::string expected = "an array of at most " + std::to_string(kMaxRank) + " whole numbers of at least 1";
    throw Error(Code::shape, "Tensor", "shape", got, expected, "Tensor: 'shape' is " + got + ", expected " + expected);
  };
  if (!value.IsArray()) refuse(text_of(value));
  const Napi::Array array = value.As<Napi::Array>();
  const uint32_t rank = array.Length();  // once: reading an element may run JavaScript, which may lengthen the array
  if (rank > kMaxRank) refuse("an array of " + std::to_string(rank));
  int64_t size = 1;
  bool right = true;
  std::string text = "[";
  for (uint32_t i = 0; i < rank; i++) {
    const Napi::Value length = array.Get(i);
    const double number = length.IsNumber() ? length.As<Napi::Number>().DoubleValue() : 0;
    const bool whole = number >= 1 && number <= 1e15 && number == static_cast<double>(static_cast<int64_t>(number));
    right = right && whole && size <= kMaxSize / static_cast<int64_t>(number);
    if (right) size *= view.shape[i] = static_cast<int64_t>(number);
    text += (i ? ", " : "") + text_of(length);
  }
  if (!right) refuse(text + "]");
  view.rank = static_cast<int>(rank);
  return view;
}

// create(device, shape, dtype, kind, layout)
Napi::Value create(const Napi::CallbackInfo& info) {
  const auto device = unwrap_device(info[0]);
  Tensor view = parse_shape(info[1]);
  view.dtype = parse<DType>(info[2], "dtype", kDTypes, name_of);
  const Kind kind = parse<Kind>(info[3], "kind", kKinds, name_of);
  view.layout = parse<Layout>(info[4], "layout", 3, name_of);
  return allocate(info.Env(), device, view, kind);
}

Napi::Value dispose(const Napi::CallbackInfo& info) {
  release(info.Env(), any_tensor(info[0]));
  return info.Env().Undefined();
}

// alias(tensor, shape | undefined): another handle on the same bytes.
Napi::Value alias(const Napi::CallbackInfo& info) {
  TensorHandle& handle = live_tensor(info[0]);
  TensorHandle other = handle;
  if (!info[1].IsUndefined()) {
    Tensor view = parse_shape(info[1]);
    if (view.size() != handle.view.size() || handle.view.layout != Layout::plain) {
      const std::string got = to_string(view), expected = "as many numbers as " + to_string(handle.view);
      throw Error(Code::shape, "reshape", "shape", got, expected, "reshape: 'shape' is " + got + ", expected " + expected);
    }
    view.dtype = handle.view.dtype, view.data = handle.view.data, view.storage_bytes = handle.view.storage_bytes;
    other.view = view;
  }
  return wrap(info.Env(), std::move(other));
}

// transposed(packed weight): another handle on the same bytes as packed_transposed; undefined where the backend orders those
// differently.
Napi::Value transposed(const Napi::CallbackInfo& info) {
  TensorHandle& handle = live_tensor(info[0]);
  const bool is_one = handle.storage->device->table().has_one_packing;
  if (!is_one || handle.view.layout != Layout::packed || handle.view.dtype == DType::i8) return info.Env().Undefined();
  TensorHandle other = handle;
  other.view.layout = Layout::packed_transposed;
  return wrap(info.Env(), std::move(other));
}

// part(tensor, first, count): another handle on entries [first, first + count) of the first axis.
Napi::Value part(const Napi::CallbackInfo& info) {
  TensorHandle& handle = live_tensor(info[0]);
  const int64_t length = handle.view.rank > 0 && handle.view.layout == Layout::plain ? handle.view.dim(0) : 0;
  const double first = info[1].ToNumber().DoubleValue(), count = info[2].ToNumber().DoubleValue();
  const bool inside = first >= 0 && count >= 1 && first + count <= static_cast<double>(length);
  if (!inside || first != std::floor(first) || count != std::floor(count)) {
    const std::string got = text_of(info[1]) + " + " + text_of(info[2]), expected = "a part of " + to_string(handle.view);
    throw Error(Code::shape, "part", "first", got, expected, "part: " + got + " entries, expected " + expected);
  }
  TensorHandle other = handle;
  const int64_t bytes = handle.view.bytes() / length;
  other.view.shape[0] = static_cast<int64_t>(count);
  other.view.data = handle.view.as<char>() + static_cast<int64_t>(first) * bytes;
  return wrap(info.Env(), std::move(other));
}

struct HostBytes {
  const char* data;
  int64_t bytes;
};

HostBytes host_bytes(const Napi::Value& value) {
  if (!value.IsTypedArray()) throw Error(Code::argument, "expected a typed array");
  const Napi::TypedArray array = value.As<Napi::TypedArray>();
  void* data = nullptr;
  size_t length = 0;
  napi_typedarray_type type;
  if (napi_get_typedarray_info(value.Env(), value, &type, &length, &data, nullptr, nullptr) != napi_ok)
    throw Error(Code::argument, "expected a typed array");
  return {static_cast<const char*>(data), static_cast<int64_t>(array.ByteLength())};
}

// write(tensor, typed array of the tensor's own dtype; bf16 as Uint16Array): copied now, written when the stream gets there.
Napi::Value write(const Napi::CallbackInfo& info) {
  TensorHandle& handle = live_tensor(info[0]);
  const HostBytes host = host_bytes(info[1]);
  if (host.bytes != handle.view.bytes()) {
    const std::string got = std::to_string(host.bytes) + " bytes", expected = std::to_string(handle.view.bytes()) + " bytes";
    throw Error(Code::shape, "write", "data", got, expected, "write: 'data' has " + got + ", expected " + expected);
  }
  Device& device = *handle.storage->device;
  device.copy_in(handle.view.data, host.data, host.bytes);
  handle.storage->version = device.next_version();
  return info.Env().Undefined();
}

// zero(tensor): every byte 0.
Napi::Value zero(const Napi::CallbackInfo& info) {
  TensorHandle& handle = live_tensor(info[0]);
  Device& device = *handle.storage->device;
  if (Recorder* recorder = device.recorder()) {
    recorder->used(handle.storage);
    recorder->changed(handle.storage.get());
  }
  device.fill(handle.view.data, 0, handle.view.bytes());
  handle.storage->version = device.next_version();
  return info.Env().Undefined();
}

// read(tensor) -> Promise<ArrayBuffer>: the bytes as they are when the stream gets there. The tensor may be disposed before:
// blocks are reused in the order of calls, so what the stream finds there is still the tensor's.
Napi::Value read(const Napi::CallbackInfo& info) {
  const TensorHandle& handle = live_tensor(info[0]);
  const std::shared_ptr<Device> owner = handle.storage->device;
  if (owner->settings().plan) throw Error(Code::device, "a planning device computes nothing: its tensors cannot be read");
  const auto bytes = std::make_shared<std::string>();
  std::function<void()> copy_out = [&device = *owner, view = handle.view, bytes] {
    bytes->resize(static_cast<size_t>(view.bytes()));
    const Status status = device.table().copy_out(device.backend(), bytes->data(), view.data, view.bytes());
    if (!status.ok) throw Error(status.code, status.text);
  };
  Trace* trace = owner->trace();
  if (trace) copy_out = trace->add("read", 0, owner->note(2 * handle.view.bytes()), std::move(copy_out));
  const Napi::Value promise = when_reached(
      info.Env(), owner,
      [bytes](Napi::Env env) -> Napi::Value {
        Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, bytes->size());
        std::copy(bytes->begin(), bytes->end(), static_cast<char*>(buffer.Data()));
        return buffer;
      },
      std::move(copy_out));
  if (trace) trace->queued();
  return promise;
}

// copy(to, from): same bytes, other buffer.
Napi::Value copy(const Napi::CallbackInfo& info) {
  TensorHandle& to = live_tensor(info[0]);
  TensorHandle& from = live_tensor(info[1]);
  if (to.storage->device != from.storage->device) throw Error(Code::device, "copy: tensors live on two devices");
  if (to.view.bytes() != from.view.bytes() || to.view.dtype != from.view.dtype || to.view.layout != from.view.layout) {
    throw Error(Code::shape, "copy", "from", to_string(from.view), to_string(to.view),
                "copy: 'from' is " + std::string(name_of(from.view.dtype)) + " " + to_string(from.view) + ", expected " +
                    name_of(to.view.dtype) + " " + to_string(to.view));
  }
  if (Recorder* recorder = to.storage->device->recorder()) {
    recorder->used(to.storage);
    recorder->used(from.storage);
    recorder->changed(to.storage.get());
  }
  to.storage->device->copy(to.view.data, from.view.data, to.view.bytes());
  to.storage->version = to.storage->device->next_version();
  return info.Env().Undefined();
}

// describe(tensor) -> { shape, dtype, layout, bytes, kind }
Napi::Value describe(const Napi::CallbackInfo& info) {
  TensorHandle& handle = live_tensor(info[0]);
  const Napi::Env env = info.Env();
  Napi::Array shape = Napi::Array::New(env, handle.view.rank);
  for (int axis = 0; axis < handle.view.rank; axis++) shape.Set(axis, static_cast<double>(handle.view.shape[axis]));
  Napi::Object object = Napi::Object::New(env);
  object.Set("shape", shape);
  object.Set("dtype", name_of(handle.view.dtype));
  object.Set("layout", name_of(handle.view.layout));
  object.Set("bytes", static_cast<double>(handle.storage->block.bytes));
  object.Set("kind", name_of(handle.storage->block.kind));
  return object;
}

Napi::Value disposed(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), !any_tensor(info[0]).storage); }

Napi::Value version(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(live_tensor(info[0]).storage->version));
}

// After an in-place call was undone, the bytes are again what they were: so is their version.
Napi::Value set_version(const Napi::CallbackInfo& info) {
  if (!info[1].IsNumber()) throw Error(Code::argument, "expected a version");
  live_tensor(info[0]).storage->version = static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value());
  return info.Env().Undefined();
}

// Where the bytes lie, as text: equal for handles of one buffer.
Napi::Value address(const Napi::CallbackInfo& info) {
  char text[32];
  snprintf(text, sizeof text, "%p", live_tensor(info[0]).view.data);
  return Napi::String::New(info.Env(), text);
}

}  // namespace

int64_t account(Napi::Env env, int64_t bytes) {
  int64_t total = 0;
  napi_adjust_external_memory(env, bytes, &total);
  return total;
}

void release(Napi::Env env, TensorHandle& handle) {
  if (!handle.storage) return;
  if (--handle.storage->handles == 0 && is_accounted(*handle.storage)) account(env, -handle.storage->block.bytes);
  handle.storage.reset();
}

Napi::Object wrap(Napi::Env env, TensorHandle handle) {
  Napi::Object object = Napi::Object::New(env);
  auto owned = std::make_unique<TensorHandle>(std::move(handle));
  const napi_status status = napi_wrap(
      env, object, owned.get(),
      [](napi_env raw, void* data, void*) {
        const std::unique_ptr<TensorHandle> held(static_cast<TensorHandle*>(data));
        if (!held->storage) return;
        Addon::of(raw).finalized_tensors++;
        release(raw, *held);
      },
      nullptr, nullptr);
  if (status != napi_ok) throw Error(Code::argument, "cannot make a tensor handle");
  Storage& storage = *owned.release()->storage;
  if (storage.handles++ == 0 && is_accounted(storage)) account(env, storage.block.bytes);
  if (napi_type_tag_object(env, object, &kTensorTag) != napi_ok) throw Error(Code::argument, "cannot make a tensor handle");
  return object;
}

TensorHandle* unwrap_tensor(Napi::Value value) {
  bool tagged = false;
  void* data = nullptr;
  if (!value.IsObject() || napi_check_object_type_tag(value.Env(), value, &kTensorTag, &tagged) != napi_ok || !tagged ||
      napi_unwrap(value.Env(), value, &data) != napi_ok) {
    return nullptr;
  }
  return static_cast<TensorHandle*>(data);
}

TensorHandle& any_tensor(Napi::Value value) {
  if (TensorHandle* handle = unwrap_tensor(value)) return *handle;
  throw Error(Code::argument, "expected a tensor, not " + text_of(value));
}

TensorHandle& live_tensor(Napi::Value value) {
  TensorHandle& handle = any_tensor(value);
  if (!handle.storage) throw Error(Code::disposed, "the tensor was disposed");
  return handle;
}

void bind_tensors(Napi::Object exports) {
  SIDETUNE_EXPORT(exports, "tensorCreate", create);
  SIDETUNE_EXPORT(exports, "tensorDispose", dispose);
  SIDETUNE_EXPORT(exports, "tensorAlias", alias);
  SIDETUNE_EXPORT(exports, "tensorPart", part);
  SIDETUNE_EXPORT(exports, "tensorTransposed", transposed);
  SIDETUNE_EXPORT(exports, "tensorWrite", write);
  SIDETUNE_EXPORT(exports, "tensorZero", zero);
  SIDETUNE_EXPORT(exports, "tensorRead", read);
  SIDETUNE_EXPORT(exports, "tensorCopy", copy);
  SIDETUNE_EXPORT(exports, "tensorDescribe", describe);
  SIDETUNE_EXPORT(exports, "tensorDisposed", disposed);
  SIDETUNE_EXPORT(exports, "tensorVersion", version);
  SIDETUNE_EXPORT(exports, "tensorSetVersion", set_version);
  SIDETUNE_EXPORT(exports, "tensorAddress", address);
}

}  // namespace sidetune::binding
