// Finds, loads and checks the library of a backend.
#include <dlfcn.h>

#include <map>
#include <mutex>

#include "backend.h"

namespace sidetune {
namespace {

constexpr const char* kHelp = "Device.open('cpu') works here";

[[noreturn]] void refuse(const std::string& name, const std::string& reason) {
  throw Error(Code::no_backend, "Device.open", "name", name, "a device of this machine",
              "no device '" + name + "': " + reason + "; " + kHelp);
}

// The folder of the addon.
std::string folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&folder), &info) == 0 || !info.dli_fname) return ".";
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

std::string file_of(const std::string& name) {
  std::string file = "libsidetune_" + name + ".so";
  for (char& c : file)
    if (c == '-') c = '_';
  return file;
}

// CUDA's driver belongs to the system: without it no library of ours can help.
void find_driver(const std::string& name) {
  if (void* driver = dlopen("libcuda.so.1", RTLD_LAZY)) {
    dlclose(driver);
    return;
  }
  refuse(name, "libcuda.so.1 was not found, so no NVIDIA driver is installed");
}

const BackendTable& load(const std::string& name) {
  if (name == "cuda") find_driver(name);
  const std::string file = file_of(name), path = folder() + "/" + file;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const std::string reason = dlerror();
    if (reason.find("cublas") != std::string::npos)
      refuse(name, "cuBLAS is not installed or not on the loader's path (" + reason + ")");
    if (reason.find(file + ": cannot open") != std::string::npos)
      refuse(name, "this build has no " + file + " beside the addon; " +
                       (name == "cuda" ? "where nvcc and cuBLAS are installed, npm run build:native makes it"
                                       : "it is for tests, and npm test makes it"));
    refuse(name, file + " cannot be loaded (" + reason + ")");
  }
  using Table = const BackendTable* (*)();
  const auto get = reinterpret_cast<Table>(dlsym(library, "sidetune_backend"));
  if (!get) refuse(name, file + " is no backend of sidetune");
  const BackendTable& table = *get();
  if (table.version != kBackendVersion) {
    refuse(name, file + " is of version " + std::to_string(table.version) + " and the addon of version " +
                     std::to_string(kBackendVersion) + "; build both together with npm run build:native");
  }
  return table;
}

}  // namespace

const BackendTable& library_backend(const std::string& name) {
  static std::mutex mutex;
  static std::map<std::string, const BackendTable*> loaded;
  const std::lock_guard<std::mutex> lock(mutex);
  const BackendTable*& table = loaded[name];
  if (!table) table = &load(name);
  return *table;
}

}  // namespace sidetune
