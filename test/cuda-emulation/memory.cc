#include "memory.h"

#include <cuda_runtime.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "errors.h"
#include "native/sanitizer.h"
#include "observer.h"
#include "streams.h"

namespace sidetune::emulation {
namespace {

// Every allocation has a block of its own from the system, so that a sanitizer sees what goes past its end, and is filled with
// NaN. Large ones are address space that turns into memory where it is written, in pieces that show one file of NaN.
constexpr size_t kLargeBytes = size_t{kSanitized ? 256 : 4} << 20;
constexpr size_t kPieceBytes = size_t{4} << 20;
constexpr size_t kAlignment = 256;

struct Registry {
  std::mutex mutex;
  std::map<const char*, Allocation> allocations;  // by begin
  size_t device_bytes = 0;
};
Registry& registry() {
  static Registry& lasting = *new Registry;
  return lasting;
}

// A file of kPieceBytes bytes of 0xff.
int file_of_nan() {
  static const int file = [] {
    const int made = memfd_create("nan", MFD_CLOEXEC);
    const std::string nan(kPieceBytes, '\xff');
    if (made >= 0 && write(made, nan.data(), nan.size()) != static_cast<ssize_t>(nan.size())) return -1;
    return made;
  }();
  return file;
}

size_t mapped_bytes(size_t bytes) { return (bytes + kPieceBytes - 1) / kPieceBytes * kPieceBytes; }

void* take(size_t bytes) {
  if (bytes < kLargeBytes) {
    void* data = nullptr;
    if (posix_memalign(&data, kAlignment, bytes) != 0) return nullptr;
    return std::memset(data, 0xff, bytes);
  }
  const size_t mapped = mapped_bytes(bytes);
  void* data = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  for (size_t at = 0; at < mapped; at += kPieceBytes) {
    constexpr int kProtection = PROT_READ | PROT_WRITE, kFlags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
    if (mmap(static_cast<char*>(data) + at, kPieceBytes, kProtection, kFlags, file_of_nan(), 0) == MAP_FAILED) {
      munmap(data, mapped);
      return nullptr;
    }
  }
  poison(static_cast<char*>(data) + bytes, static_cast<int64_t>(mapped - bytes));
  return data;
}

void give(const Allocation& allocation) {
  char* data = const_cast<char*>(allocation.begin);
  if (allocation.bytes < kLargeBytes) {
    free(data);
    return;
  }
  const size_t mapped = mapped_bytes(allocation.bytes);
  unpoison(data, static_cast<int64_t>(mapped));
  munmap(data, mapped);
}

// The mutex is held.
Allocation find(const void* address) {
  Registry& r = registry();
  auto after = r.allocations.upper_bound(static_cast<const char*>(address));
  if (after == r.allocations.begin()) return {};
  const Allocation& candidate = std::prev(after)->second;
  return candidate.contains(address, 1) ? candidate : Allocation{};
}

cudaError_t allocate(void** pointer, size_t bytes, bool is_pinned) {
  if (!pointer) return note(cudaErrorInvalidValue);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  Registry& r = registry();
  const size_t memory_bytes = configuration().memory_bytes;
  const std::lock_guard lock(r.mutex);
  if (!is_pinned && (bytes > memory_bytes || r.device_bytes > memory_bytes - bytes)) return note(cudaErrorMemoryAllocation);
  void* data = take(bytes);
  if (!data) return note(cudaErrorMemoryAllocation);
  const char* begin = static_cast<const char*>(data);
  const Allocation& made = r.allocations[begin] = {begin, bytes, is_pinned};
  // Not only at the end: a launch on another thread may have looked at the last allocation here after it was freed.
  if (observer && !is_pinned) observer->forget(made);
  if (!is_pinned) r.device_bytes += bytes;
  *pointer = data;
  return cudaSuccess;
}

cudaError_t release(const char* function, void* pointer, bool is_pinned) {
  if (!pointer) return cudaSuccess;
  run_everything();
  Registry& r = registry();
  std::unique_lock lock(r.mutex);
  const auto found = r.allocations.find(static_cast<const char*>(pointer));
  if (found == r.allocations.end() || found->second.is_pinned != is_pinned) {
    const bool exists = found != r.allocations.end();
    lock.unlock();
    report(std::string(function) + ": the pointer " +
           (exists ? "is of the other kind of memory" : "was never given out, was freed before, or is not the beginning"));
    return note(sticky_error());
  }
  if (!is_pinned) r.device_bytes -= found->second.bytes;
  if (observer && !is_pinned) observer->forget(found->second);
  give(found->second);
  r.allocations.erase(found);
  return cudaSuccess;
}

// On which side of a copy the device is.
struct Places {
  bool to_device = false, from_device = false;
};

bool is_on_device(const void* data) {
  const Allocation found = allocation_of(data);
  return found && !found.is_pinned;
}

// False for a kind that is none.
bool places_of(cudaMemcpyKind kind, const void* to, const void* from, Places* places) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      *places = {false, false};
      return true;
    case cudaMemcpyHostToDevice:
      *places = {true, false};
      return true;
    case cudaMemcpyDeviceToHost:
      *places = {false, true};
      return true;
    case cudaMemcpyDeviceToDevice:
      *places = {true, true};
      return true;
    case cudaMemcpyDefault:
      *places = {is_on_device(to), is_on_device(from)};
      return true;
  }
  return false;
}

bool check_range(const char* what, const void* data, size_t bytes, bool on_device) {
  return on_device ? check_device_range(what, data, bytes) : check_host_range(what, data, bytes);
}

// A copy that runs later finds its host memory as it was queued: who changes the source in between, or has used the destination
// before it was there, did not wait for the copy. CUDA may be done with pageable memory earlier, and promises it nowhere.
std::function<void()> watched(const std::function<void()>& copy, void* to, const void* from, size_t bytes, Places places) {
  std::vector<char> source;
  if (!places.from_device) source.assign(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  if (!places.to_device) std::memset(to, 0xff, bytes);
  return [=, source = std::move(source)] {
    if (!places.from_device && std::memcmp(source.data(), from, bytes) != 0)
      report("cudaMemcpyAsync: the source was changed before the copy was done");
    const auto is_untouched = [](char byte) { return byte == '\xff'; };
    if (!places.to_device && !std::all_of(static_cast<char*>(to), static_cast<char*>(to) + bytes, is_untouched))
      report("cudaMemcpyAsync: the destination was written before the copy was done");
    copy();
  };
}

}  // namespace

std::vector<Allocation> device_allocations() {
  const std::lock_guard lock(registry().mutex);
  std::vector<Allocation> all;
  for (const auto& [begin, allocation] : registry().allocations)
    if (!allocation.is_pinned) all.push_back(allocation);
  return all;
}

Allocation allocation_of(const void* address) {
  const std::lock_guard lock(registry().mutex);
  return find(address);
}

bool check_device_range(const std::string& what, const void* data, size_t bytes) {
  const Allocation found = allocation_of(data);
  if (found && !found.is_pinned && found.contains(data, bytes)) return true;
  if (!found || found.is_pinned) {
    report(what + " is not in device memory");
  } else {
    const size_t offset = static_cast<size_t>(static_cast<const char*>(data) - found.begin);
    report(what + " is out of bounds: bytes " + std::to_string(offset) + " to " + std::to_string(offset + bytes) +
           " of an allocation of " + std::to_string(found.bytes));
  }
  return false;
}

bool check_host_range(const std::string& what, const void* data, size_t bytes) {
  const Allocation found = allocation_of(data);
  if (!found) return true;
  if (!found.is_pinned)
    report(what + " is device memory, expected host memory");
  else if (!found.contains(data, bytes))
    report(what + " ends outside of its pinned allocation of " + std::to_string(found.bytes) + " bytes");
  else
    return true;
  return false;
}

std::string free_all_memory() {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  size_t bytes = 0;
  const size_t count = r.allocations.size();
  for (const auto& [begin, allocation] : r.allocations) {
    bytes += allocation.bytes;
    if (observer && !allocation.is_pinned) observer->forget(allocation);
    give(allocation);
  }
  r.allocations.clear();
  r.device_bytes = 0;
  return count == 0 ? "" : std::to_string(bytes) + " bytes in " + std::to_string(count) + " allocations";
}

}  // namespace sidetune::emulation

using namespace sidetune::emulation;

extern "C" {

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  if (const cudaError_t error = enter("cudaMemGetInfo")) return error;
  if (!free || !total) return note(cudaErrorInvalidValue);
  *total = configuration().memory_bytes;
  const std::lock_guard lock(registry().mutex);
  *free = *total > registry().device_bytes ? *total - registry().device_bytes : 0;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (const cudaError_t error = enter("cudaMalloc")) return error;
  if (const cudaError_t error = refuse_in_capture()) return error;
  return allocate(pointer, bytes, false);
}

cudaError_t cudaFree(void* pointer) {
  if (const cudaError_t error = enter("cudaFree")) return error;
  if (const cudaError_t error = refuse_in_capture()) return error;
  return release("cudaFree", pointer, false);
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  if (const cudaError_t error = enter("cudaMallocHost")) return error;
  if (const cudaError_t error = refuse_in_capture()) return error;
  return allocate(pointer, bytes, true);
}

cudaError_t cudaFreeHost(void* pointer) {
  if (const cudaError_t error = enter("cudaFreeHost")) return error;
  if (const cudaError_t error = refuse_in_capture()) return error;
  return release("cudaFreeHost", pointer, true);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaMemcpyAsync")) return error;
  if (!check_stream("cudaMemcpyAsync", stream)) return note(sticky_error());
  if (bytes == 0) return cudaSuccess;
  if (!to || !from) return note(cudaErrorInvalidValue);
  Places places;
  if (!places_of(kind, to, from, &places)) return note(cudaErrorInvalidMemcpyDirection);
  const auto check = [=] {
    if (!check_range("cudaMemcpyAsync: the destination", to, bytes, places.to_device) ||
        !check_range("cudaMemcpyAsync: the source", from, bytes, places.from_device))
      return false;
    const auto *to_begin = static_cast<const char*>(to), *from_begin = static_cast<const char*>(from);
    if (to_begin >= from_begin + bytes || from_begin >= to_begin + bytes) return true;
    report("cudaMemcpyAsync: source and destination overlap");
    return false;
  };
  const auto copy = [=] {
    std::memcpy(to, from, bytes);
    if (!observer || !places.to_device) return;
    if (places.from_device)
      observer->copied_by_stream(to, from, bytes);
    else
      observer->written_by_stream(to, bytes);
  };
  if (!check()) return note(sticky_error());
  if (is_capturing(stream) || !configuration().deferred) return submit(stream, {"cudaMemcpyAsync", copy, check});
  return submit(stream, {"cudaMemcpyAsync", watched(copy, to, from, bytes, places), {}});
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaMemsetAsync")) return error;
  if (!check_stream("cudaMemsetAsync", stream)) return note(sticky_error());
  if (bytes == 0) return cudaSuccess;
  const auto check = [=] { return check_device_range("cudaMemsetAsync: the destination", data, bytes); };
  const auto fill = [=] {
    std::memset(data, value, bytes);
    if (!observer) return;
    if ((value & 0xff) == 0xff)
      observer->filled_with_nan(data, bytes);
    else
      observer->written_by_stream(data, bytes);
  };
  return submit(stream, {"cudaMemsetAsync", fill, check});
}

}  // extern "C"
