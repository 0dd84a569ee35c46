// What every binding file shares: the state of one JavaScript environment (main thread or worker), handles, and the guard around
// each function.
#pragma once

#define NAPI_VERSION 8
// While a worker is being terminated nothing can be thrown into its JavaScript; the alternative is that the process ends.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#include <napi.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "native/device.h"

namespace sidetune::binding {

class Completions;

// One per environment, freed with it.
struct Addon {
  Napi::ObjectReference error_classes;  // of lib/errors.ts
  std::shared_ptr<Completions> completions;
  std::vector<std::weak_ptr<Device>> devices;  // to be closed when the environment ends
  int64_t finalized_tensors = 0;               // freed by the garbage collector instead of dispose()

  static Addon& of(Napi::Env env) { return *env.GetInstanceData<Addon>(); }
};

// A handle that JavaScript holds: a part of a storage, seen with a shape. Empty storage: disposed.
struct TensorHandle {
  std::shared_ptr<Storage> storage;
  Tensor view;
};

Napi::Object wrap(Napi::Env env, std::shared_ptr<Device> device);
Napi::Object wrap(Napi::Env env, TensorHandle handle);
// Throw Error when the value is no such handle: a foreign object is never reinterpreted.
std::shared_ptr<Device> unwrap_device(Napi::Value value);
TensorHandle* unwrap_tensor(Napi::Value value);  // null: not a tensor
TensorHandle& any_tensor(Napi::Value value);
TensorHandle& live_tensor(Napi::Value value);  // throws also when disposed

// Lets go of the storage; the handle is disposed afterwards.
void release(Napi::Env env, TensorHandle& handle);

// Tells V8 of more or fewer bytes that handles keep alive: its collector runs the sooner. Returns all that V8 knows of.
int64_t account(Napi::Env env, int64_t bytes);

// The classes that errors are made of, by name.
void take_error_classes(Napi::Env env, Napi::Value classes);
// A value as error messages call it; runs no JavaScript.
std::string text_of(const Napi::Value& value);
[[noreturn]] void throw_in_javascript(Napi::Env env, const Error& error);
Napi::Error to_javascript(Napi::Env env, const Error& error);

// Runs a native function; every C++ exception becomes a JavaScript error.
using Function = Napi::Value (*)(const Napi::CallbackInfo&);
template <Function function>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return function(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (const Error& error) {
    throw_in_javascript(info.Env(), error);
  } catch (const std::bad_alloc&) {
    throw_in_javascript(info.Env(), Error(Code::memory, "out of memory"));
  } catch (const std::exception& error) {
    throw_in_javascript(info.Env(), Error(Code::argument, error.what()));
  }
}
#define SIDETUNE_EXPORT(exports, name, function) \
  (exports).Set(name, Napi::Function::New<guarded<function>>((exports).Env(), name))

void bind_devices(Napi::Object exports);
void bind_replays(Napi::Object exports);
void bind_tensors(Napi::Object exports);

// Defined by SIDETUNE_BIND in each family's file.
template <class Arguments>
void bind(Napi::Object exports);

}  // namespace sidetune::binding
