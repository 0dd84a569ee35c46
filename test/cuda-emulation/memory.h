// The memory that cudaMalloc and cudaMallocHost have given out.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace sidetune::emulation {

struct Allocation {
  const char* begin = nullptr;
  size_t bytes = 0;
  bool is_pinned = false;  // host memory
  explicit operator bool() const { return begin != nullptr; }
  bool contains(const void* data, size_t count) const {
    const char* at = static_cast<const char*>(data);
    return begin && at >= begin && at <= begin + bytes && count <= static_cast<size_t>(begin + bytes - at);
  }
};

// Of memory on the device, by address.
std::vector<Allocation> device_allocations();

// The allocation that `address` is in, or none.
Allocation allocation_of(const void* address);

// Whether all of the range lies inside one allocation on the device; reports, naming `what`, when it does not.
bool check_device_range(const std::string& what, const void* data, size_t bytes);
// Whether none of it is device memory and it does not end outside of the pinned allocation it begins in.
bool check_host_range(const std::string& what, const void* data, size_t bytes);

// Frees everything. Returns what was still there, for people to read; empty when nothing was.
std::string free_all_memory();

}  // namespace sidetune::emulation
