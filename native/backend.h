// The seam between the engine and the code that computes. A backend is one table: how to get memory and move bytes, and one entry
// per line of kernels.def. A backend that lacks a kernel does not link. No entry is chosen by itself: what a backend cannot do,
// it refuses by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "error.h"
#include "tensor.h"

namespace sidetune {

#define KERNEL(family, Arguments) struct Arguments;
#include "kernels.def"
#undef KERNEL

// Goes up with every change of what a backend's library and the addon share: this file, fields and kernels.def.
constexpr uint32_t kBackendVersion = 7;

// A backend's own state for one open device: threads and primitive caches on the CPU, handles on CUDA.
struct BackendDevice;

// Scratch memory of one call, taken from the device's arena and given back when the call has been queued.
struct Workspace {
  std::byte* data = nullptr;
  int64_t bytes = 0;

  // Cuts the next `count` numbers off, 64-byte aligned.
  template <class T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(data);
    const int64_t used = aligned<T>(count);
    data += used, bytes -= used;
    return taken;
  }
  template <class T>
  static int64_t aligned(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
};

template <class Arguments>
struct Entry {
  // Runs on the device's stream thread, after every earlier call.
  Status (*run)(BackendDevice&, const Arguments&, Workspace) noexcept = nullptr;
  // Bytes of scratch that run() will need. Called on the caller's thread; depends on shapes alone.
  Status (*workspace)(BackendDevice&, const Arguments&, int64_t* bytes) noexcept = nullptr;
};

struct KernelTableEnd {};
struct KernelTable
#define KERNEL(family, Arguments) Entry<Arguments>,
    :
#include "kernels.def"
    KernelTableEnd {
#undef KERNEL
  template <class Arguments>
  const Entry<Arguments>& entry() const {
    return *this;
  }
};

struct DeviceOptions {
  int threads = 0;    // CPU; 0: the backend's default
  int index = 0;      // CUDA: which of several devices
  bool tf32 = false;  // CUDA: f32 products may round their operands to 10 bits
};

struct BackendTable {
  uint32_t version;
  const char* name;
  // How many devices there are; fails when there can be none, and says why.
  Status (*count)(int* devices) noexcept;
  Status (*open)(const DeviceOptions&, BackendDevice**) noexcept;
  // The device's stream has ended, and nothing will be asked of it any more but to take memory back; null where that is nothing.
  void (*stopped)(BackendDevice&) noexcept;
  void (*close)(BackendDevice*) noexcept;
  // Reserves device memory. Fails with Code::memory when there is too little, and says how much there is.
  Status (*take_memory)(BackendDevice&, int64_t bytes, void** data) noexcept;
  void (*give_memory)(BackendDevice&, void* data, int64_t bytes) noexcept;
  // How much the arena takes at once and cuts up; 0: each of its blocks is taken and given back on its own, for tools that watch
  // every access.
  int64_t (*slab_bytes)(BackendDevice&) noexcept;
  int64_t (*memory_limit)(BackendDevice&) noexcept;
  Status (*copy_in)(BackendDevice&, void* device, const void* host, int64_t bytes) noexcept;
  Status (*copy_out)(BackendDevice&, void* host, const void* device, int64_t bytes) noexcept;
  Status (*copy)(BackendDevice&, void* to, const void* from, int64_t bytes) noexcept;
  Status (*fill)(BackendDevice&, void* device, uint8_t byte, int64_t bytes) noexcept;
  Status (*synchronize)(BackendDevice&) noexcept;
  // Waits for the calls that have a ticket, if there are any, and fails as the first of them failed: with its ticket, once.
  Status (*settle)(BackendDevice&) noexcept;
  // Calls between the first two are recorded instead of made, and the third makes them all at once; null where there is no such
  // thing.
  Status (*begin_graph)(BackendDevice&) noexcept;
  Status (*end_graph)(BackendDevice&, void** graph) noexcept;
  Status (*launch_graph)(BackendDevice&, void* graph) noexcept;
  void (*free_graph)(BackendDevice&, void* graph) noexcept;
  // Bytes of a weight [O, I] in a packed layout.
  Status (*packed_bytes)(BackendDevice&, int64_t rows, int64_t columns, DType, Layout, int64_t* bytes) noexcept;
  // Whether both packed layouts are the same bytes.
  bool has_one_packing;
  // One line of JSON: {"threads": 2, "isa": "...", ...}.
  void (*describe)(BackendDevice&, char* text, int64_t capacity) noexcept;
  KernelTable kernels;
};

const BackendTable& cpu_backend();

// The backend in a library beside the addon, loaded when first asked for: "cuda", or "cuda-emulated" where the tests have built
// it. Throws Error(no_backend) with what was looked for and what helps.
const BackendTable& library_backend(const std::string& name);

}  // namespace sidetune
