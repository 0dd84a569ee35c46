#include "kernel.h"

#include <cstring>

namespace sidetune::binding {
namespace {

[[noreturn]] void refuse(const char* kernel, const Field& field, Code code, const std::string& got, const std::string& expected) {
  const std::string k = camel_case(kernel), name = camel_case(field.name);
  throw Error(code, k, name, got, expected, k + ": '" + name + "' is " + got + ", expected " + expected);
}

double unpack_number(const char* kernel, const Field& field, const Napi::Value& value) {
  if (!value.IsNumber()) refuse(kernel, field, Code::argument, text_of(value), "a number");
  return value.As<Napi::Number>().DoubleValue();
}

int64_t unpack_integer(const char* kernel, const Field& field, const Napi::Value& value) {
  const double number = unpack_number(kernel, field, value);
  if (!(number >= -9007199254740991.0 && number <= 9007199254740991.0) ||
      number != static_cast<double>(static_cast<int64_t>(number))) {
    refuse(kernel, field, Code::argument, text_of(value), "a whole number");
  }
  return static_cast<int64_t>(number);
}

void unpack_option(const char* kernel, Field& field, const Napi::Value& value) {
  if (field.real) *field.real = static_cast<float>(unpack_number(kernel, field, value));
  if (field.integer) *field.integer = unpack_integer(kernel, field, value);
  if (field.flag) {
    if (!value.IsBoolean()) refuse(kernel, field, Code::argument, text_of(value), "true or false");
    *field.flag = value.ToBoolean();
  }
  if (field.choice) {
    const std::string wanted = value.IsString() ? value.ToString().Utf8Value() : "";
    uint8_t index = 0;
    std::string known;
    for (const char* c = field.choices; *c; index++) {
      const char* end = strchr(c, ' ');
      const std::string word = end ? std::string(c, end) : std::string(c);
      if (word == wanted) {
        *field.choice = index;
        return;
      }
      known += (index ? ", '" : "'") + word + "'";
      c += word.size() + (end ? 1 : 0);
    }
    refuse(kernel, field, Code::argument, value.IsString() ? "'" + wanted + "'" : text_of(value), "one of " + known);
  }
  if (field.integers) {
    const bool right = value.IsArray() && value.As<Napi::Array>().Length() == static_cast<uint32_t>(field.integer_count);
    if (!right)
      refuse(kernel, field, Code::argument, text_of(value),
             "an array of " + std::to_string(field.integer_count) + " whole numbers");
    for (int i = 0; i < field.integer_count; i++)
      field.integers[i] = unpack_integer(kernel, field, value.As<Napi::Array>().Get(i));
  }
}

Tensor unpack_tensor(const char* kernel, const Field& field, const Napi::Value& value, Call& call) {
  TensorHandle* handle = unwrap_tensor(value);
  if (!handle) refuse(kernel, field, Code::argument, text_of(value), "a tensor");
  const std::string k = camel_case(kernel), name = camel_case(field.name);
  if (!handle->storage) throw Error(Code::disposed, k, name, "disposed", "a live tensor", k + ": '" + name + "' was disposed");
  const auto& device = handle->storage->device;
  if (!call.device) {
    if (device->closed()) throw Error(Code::device, k + ": '" + name + "' is on a device that was closed");
    call.device = device;
    if (const Trace* trace = device->trace()) call.begun = trace->now();
  } else if (call.device != device) {
    throw Error(Code::device, k, name, device->name(), call.device->name(),
                k + ": '" + name + "' is on another device than the tensors before it");
  }
  call.held.push_back(handle->storage);
  if (field.role != Role::in) call.changed.push_back(handle->storage.get());
  return handle->view;
}

void refuse_unknown(const char* kernel, const Napi::Object& object, const FieldList& fields) {
  const Napi::Array names = object.GetPropertyNames();
  std::string known;
  for (const Field& field : fields.all) known += (known.empty() ? "" : ", ") + camel_case(field.name);
  for (uint32_t i = 0; i < names.Length(); i++) {
    const std::string name = names.Get(i).ToString().Utf8Value();
    bool found = false;
    for (const Field& field : fields.all) found = found || camel_case(field.name) == name;
    if (!found) {
      const std::string k = camel_case(kernel);
      throw Error(Code::argument, k, name, "unknown", known, k + ": unknown option '" + name + "', known: " + known);
    }
  }
}

}  // namespace

void unpack(const char* kernel, const Napi::CallbackInfo& info, FieldList& fields, Call& call) {
  if (!info[0].IsObject()) throw Error(Code::argument, camel_case(kernel) + ": expected an object of arguments");
  const Napi::Object object = info[0].As<Napi::Object>();
  uint32_t taken = 0;
  for (Field& field : fields.all) {
    const Napi::Value value = object.Get(camel_case(field.name));
    if (value.IsUndefined()) {
      if (field.is_required)
        refuse(kernel, field, Code::argument, "undefined", field.real || field.integer ? "a number" : "a value");
      if (object.HasOwnProperty(camel_case(field.name))) taken++;
      continue;
    }
    taken++;
    if (field.role == Role::option) {
      unpack_option(kernel, field, value);
    } else if (field.list) {
      if (!value.IsArray()) refuse(kernel, field, Code::argument, text_of(value), "an array of tensors");
      const Napi::Array array = value.As<Napi::Array>();
      for (uint32_t i = 0; i < array.Length(); i++) field.list->push_back(unpack_tensor(kernel, field, array.Get(i), call));
    } else {
      *field.tensor = unpack_tensor(kernel, field, value, call);
    }
  }
  if (object.GetPropertyNames().Length() != taken) refuse_unknown(kernel, object, fields);
  if (!call.device) {
    for (const Field& field : fields.all)
      if (field.role != Role::option && !field.is_optional) refuse(kernel, field, Code::argument, "undefined", "a tensor");
    throw Error(Code::argument, camel_case(kernel) + ": expected at least one tensor");
  }

  if (!info[1].IsObject()) return;
  const Napi::Object flags = info[1].As<Napi::Object>();
  call.wish.save = flags.Get("save").ToBoolean();
  call.poison = flags.Get("poison").ToBoolean();
  const Napi::Value kind = flags.Get("kind");
  if (kind.IsString()) {
    for (int i = 0; i < kKinds; i++)
      if (kind.ToString().Utf8Value() == name_of(static_cast<Kind>(i))) call.kind = static_cast<Kind>(i);
  }
  const Napi::Value wanted = flags.Get("wanted");
  if (wanted.IsObject()) {
    call.wish.wanted = [wanted = wanted.As<Napi::Object>()](const std::string& field) {
      const Napi::Value value = wanted.Get(field);
      return value.IsUndefined() || value.ToBoolean();
    };
  }
}

Napi::Object allocate(Napi::Env env, const std::shared_ptr<Device>& device, Tensor& view, Kind kind) {
  if (device->closed()) throw Error(Code::device, "the device is closed");
  int64_t bytes = view.size() * size_of(view.dtype);
  if (view.layout != Layout::plain) {
    if (view.rank != 2)
      throw Error(Code::shape, "Tensor", "shape", to_string(view), "[O, I]", "Tensor: a packed weight has shape [O, I]");
    if (view.dtype == DType::i8 && view.layout != Layout::packed)
      throw Error(Code::dtype, "Tensor", "layout", name_of(view.layout), "packed",
                  "Tensor: an i8 weight has layout packed, the one for x Wᵀ");
    const Status status =
        device->table().packed_bytes(device->backend(), view.shape[0], view.shape[1], view.dtype, view.layout, &bytes);
    if (!status.ok) throw Error(status.code, status.text);
  }
  const auto storage = std::make_shared<Storage>(device, bytes, kind);
  if (Recorder* recorder = device->recorder()) recorder->made(storage);
  view.data = storage->block.data;
  view.storage_bytes = bytes;
  return wrap(env, TensorHandle{storage, view});
}

void allocate_outputs(Napi::Object outputs, const std::vector<Field*>& missing, Call& call) {
  for (Field* field : missing) {
    outputs.Set(camel_case(field->name), allocate(outputs.Env(), call.device, *field->tensor, call.kind));
    if (call.poison) call.device->fill(field->tensor->data, 0xFF, field->tensor->bytes());
  }
}

void release(const Napi::Object& outputs) {
  const Napi::Array names = outputs.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); i++)
    if (TensorHandle* handle = unwrap_tensor(outputs.Get(names.Get(i)))) release(outputs.Env(), *handle);
}

Scratch::Scratch(Call& call, int64_t bytes) : device(*call.device) {
  if (bytes == 0) return;
  block = device.take(bytes, Kind::workspace);
  workspace = {static_cast<std::byte*>(block.data), bytes};
  if (call.poison) device.fill(block.data, 0xFF, bytes);
}

Scratch::~Scratch() {
  if (block.data) device.give(block);
}

void note_storages(Recorder& recorder, const Call& call) {
  for (const auto& storage : call.held) recorder.used(storage);
  for (Storage* storage : call.changed) recorder.changed(storage);
}

void fail(const char* kernel, const Status& status) {
  const std::string k = camel_case(kernel);
  throw Error(status.code, k, "", "", "", k + ": " + status.text);
}

}  // namespace sidetune::binding
