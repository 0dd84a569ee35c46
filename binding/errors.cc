// Native errors as JavaScript ones. The classes are made in lib/errors.ts; this is the only place that throws them from native code.
#include "addon.h"

namespace sidetune::binding {
namespace {

struct ErrorName {
  const char* class_name;
  const char* code;
};

ErrorName name_of(Code code) {
  switch (code) {
    case Code::argument: return {"ArgumentError", "SIDETUNE_ARGUMENT"};
    case Code::shape: return {"ShapeError", "SIDETUNE_SHAPE"};
    case Code::dtype: return {"DtypeError", "SIDETUNE_DTYPE"};
    case Code::disposed: return {"DisposedError", "SIDETUNE_DISPOSED"};
    case Code::modified: return {"DisposedError", "SIDETUNE_MODIFIED"};
    case Code::device: return {"DeviceError", "SIDETUNE_DEVICE"};
    case Code::no_backend: return {"DeviceError", "SIDETUNE_NO_BACKEND"};
    case Code::late: return {"DeviceError", "SIDETUNE_LATE"};
    case Code::memory: return {"MemoryError", "SIDETUNE_MEMORY"};
  }
  return {"SidetuneError", "SIDETUNE_LATE"};
}

}  // namespace

Napi::Error to_javascript(Napi::Env env, const Error& error) {
  const ErrorName name = name_of(error.code);
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
