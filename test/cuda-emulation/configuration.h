// SIDETUNE_EMULATION: which device the emulation poses as, and how it behaves. README.md lists the keys.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

namespace sidetune::emulation {

enum class Order { ascending, descending, shuffled };

struct Configuration {
  int multiprocessors = 4;
  size_t most_shared_bytes = size_t{99} << 10;
  int major = 8, minor = 0;
  Order order = Order::ascending;
  uint64_t seed = 1;
  bool deferred = false;
  size_t memory_bytes = size_t{4} << 30;
  std::string failing;  // the API function that is to fail, or "any"; empty: none
  int64_t failing_call = 0;
  cudaError_t failure = cudaSuccess;
  std::string left_out_file;  // whose barrier in left_out_line is none
  int left_out_line = 0;
};

// Throws std::invalid_argument with the key and value that are not known.
Configuration parse_configuration(const std::string& text);

}  // namespace sidetune::emulation
