// The CUDA runtime as the backend uses it: failures become exceptions, device properties become what launch plans ask for.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "../error.h"

namespace sidetune::cuda {

// Throws Error: what was tried, CUDA's name of the failure and its text. Out of memory is Code::memory. After some failures CUDA
// refuses every later call of this process on this device: then the text says so (is_sticky).
void check(cudaError_t result, const char* what);

// True for failures after which only cudaDeviceReset helps.
bool is_sticky(cudaError_t result);

// What launch plans depend on.
struct Properties {
  int multiprocessors = 1;
  int shared_bytes = 48 << 10;  // a block may ask for without further words
  int most_shared_bytes = 48 << 10;
  int major = 0, minor = 0;
  int64_t memory_bytes = 0;
  std::string name;

  bool has_bf16() const { return major >= 8; }
};
Properties properties_of(int device);

}  // namespace sidetune::cuda
