// Native errors as JavaScript ones. The classes are made in lib/errors.ts; this is the only place that throws them from native
// code.
#include "addon.h"

namespace sidetune::binding {
namespace {

struct ErrorName {
  const char* class_name;
  const char* code;
};

constexpr ErrorName kNames[] = {
    {"ArgumentError", "SIDETUNE_ARGUMENT"}, {"ShapeError", "SIDETUNE_SHAPE"},       {"DtypeError", "SIDETUNE_DTYPE"},
    {"DisposedError", "SIDETUNE_DISPOSED"}, {"DisposedError", "SIDETUNE_MODIFIED"}, {"DeviceError", "SIDETUNE_DEVICE"},
    {"DeviceError", "SIDETUNE_NO_BACKEND"}, {"DeviceError", "SIDETUNE_LATE"},       {"MemoryError", "SIDETUNE_MEMORY"},
};
static_assert(sizeof kNames / sizeof *kNames == static_cast<size_t>(Code::memory) + 1, "one name for each Code, in its order");

}  // namespace

void take_error_classes(Napi::Env env, Napi::Value value) {
  if (!value.IsObject()) throw Error(Code::argument, "initialize: expected an object of classes");
  const Napi::Object classes = value.As<Napi::Object>();
  for (const ErrorName& name : kNames)
    if (!classes.Get(name.class_name).IsFunction())
      throw Error(Code::argument, std::string("initialize: expected a class ") + name.class_name);
  Addon::of(env).error_classes = Napi::Persistent(classes);
}

std::string text_of(const Napi::Value& value) {
  if (value.IsNull()) return "null";
  if (value.IsString()) return "'" + value.ToString().Utf8Value() + "'";
  if (value.IsNumber() || value.IsBoolean()) return value.ToString().Utf8Value();
  if (value.IsArray()) return "an array";
  return value.IsFunction() ? "a function"
         : value.IsObject() ? "an object"
         : value.IsSymbol() ? "a symbol"
         : value.IsBigInt() ? "a bigint"
                            : "undefined";
}

Napi::Error to_javascript(Napi::Env env, const Error& error) {
  const ErrorName& name = kNames[static_cast<int>(error.code)];
  const Napi::ObjectReference& classes = Addon::of(env).error_classes;
  if (classes.IsEmpty()) return Napi::Error::New(env, error.message);
  Napi::Object details = Napi::Object::New(env);
  details.Set("code", name.code);
  if (!error.kernel.empty()) details.Set("kernel", error.kernel);
  if (!error.argument.empty()) details.Set("argument", error.argument);
  if (!error.got.empty()) details.Set("got", error.got);
  if (!error.expected.empty()) details.Set("expected", error.expected);
  const Napi::Function constructor = classes.Value().Get(name.class_name).As<Napi::Function>();
  return Napi::Error(env, constructor.New({Napi::String::New(env, error.message), details}));
}

void throw_in_javascript(Napi::Env env, const Error& error) { throw to_javascript(env, error); }

}  // namespace sidetune::binding
