// What the check build has counted, for tests in JavaScript: traffic(part) -> { read, written, rawRead, rawWritten } of the
// kernels with `part` in their names, and reset(). The library that is meant lies beside this file.
#include <dlfcn.h>
#include <node_api.h>

#include <string>

namespace {

void* library() {
  Dl_info info;
  dladdr(reinterpret_cast<void*>(&library), &info);
  const std::string self = info.dli_fname;
  return dlopen((self.substr(0, self.rfind('/')) + "/libsidetune_cuda_emulated.so").c_str(), RTLD_NOW);
}

napi_value traffic(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument, result;
  char part[256] = "";
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  napi_get_value_string_utf8(env, argument, part, sizeof part, nullptr);
  napi_create_object(env, &result);
  const auto add = [&](const char* function, const char* read_name, const char* written_name) {
    long long read = 0, written = 0;
    reinterpret_cast<void (*)(const char*, long long*, long long*)>(dlsym(library(), function))(part, &read, &written);
    napi_value number;
    napi_create_int64(env, read, &number);
    napi_set_named_property(env, result, read_name, number);
    napi_create_int64(env, written, &number);
    napi_set_named_property(env, result, written_name, number);
  };
  add("sidetune_emulation_traffic", "read", "written");
  add("sidetune_emulation_raw_traffic", "rawRead", "rawWritten");
  return result;
}

napi_value reset(napi_env, napi_callback_info) {
  reinterpret_cast<void (*)()>(dlsym(library(), "sidetune_emulation_reset_traffic"))();
  return nullptr;
}

napi_value start(napi_env env, napi_value exports) {
  napi_value function;
  napi_create_function(env, "traffic", NAPI_AUTO_LENGTH, traffic, nullptr, &function);
  napi_set_named_property(env, exports, "traffic", function);
  napi_create_function(env, "reset", NAPI_AUTO_LENGTH, reset, nullptr, &function);
  napi_set_named_property(env, exports, "reset", function);
  return exports;
}

}  // namespace

NAPI_MODULE(traffic, start)
