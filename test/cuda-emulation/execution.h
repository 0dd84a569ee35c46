// Runs a grid: blocks one after another, a block's threads as fibers that take turns where they wait for each other.
#pragma once

#include <cuda_runtime.h>

#include <string>

namespace sidetune::emulation {

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  const KernelCall* call = nullptr;
};

// Runs all of it, or until the first mistake, which is reported.
void run_grid(const Launch& launch);

// "name(types)" of a function in this library, from its symbol table.
std::string kernel_name(const void* kernel);

// The most that a launch can ask for, and room behind it for accesses past the end to be seen.
constexpr size_t kMostSharedBytes = size_t{227} << 10;
constexpr size_t kSharedRoom = size_t{8} << 10;

}  // namespace sidetune::emulation

extern __shared__ __align__(
    128) unsigned char sidetune_shared[sidetune::emulation::kMostSharedBytes + sidetune::emulation::kSharedRoom];
