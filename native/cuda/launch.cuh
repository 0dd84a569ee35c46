// How kernels are launched, and how many blocks of them.
#pragma once

#include <algorithm>
#include <utility>

#include "backend.cuh"

namespace sidetune::cuda {

// The shape of a launch. A grid of no blocks launches nothing.
struct Grid {
  dim3 blocks;
  int threads = 0;
  int64_t shared_bytes = 0;
};

constexpr int kMostThreads = 1024;
constexpr int64_t kMostBlocks = 0x7fffffff, kMostBlocksYZ = 65535;

// Refuses what no device takes and what this one does not; throws Error(late).
void check_grid(const Properties& properties, const Grid& grid);

template <class... Parameters, class... Arguments>
void launch(Cuda& cuda, void (*kernel)(Parameters...), const Grid& grid, Arguments&&... arguments) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
  check_grid(cuda.properties, grid);
  if (grid.shared_bytes > cuda.properties.shared_bytes) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          "asking for shared memory");
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid.blocks;
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
  config.stream = cuda.stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...), "launching");
}

constexpr int64_t divide_up(int64_t count, int64_t by) { return (count + by - 1) / by; }
constexpr int64_t round_up(int64_t count, int64_t to) { return divide_up(count, to) * to; }

// One axis of blocks for `items` units of work, `per_block` at a time. Kernels walk on by the grid's size, so no count is too
// large; more blocks than a few waves would only be started and ended.
inline dim3 blocks_for(const Properties& properties, int64_t items, int64_t per_block, int blocks_per_multiprocessor = 16) {
  const int64_t wanted = divide_up(items, per_block);
  const int64_t most = static_cast<int64_t>(properties.multiprocessors) * blocks_per_multiprocessor;
  return dim3(static_cast<unsigned>(std::min({wanted, most, kMostBlocks})));
}

// Rows that are summed one after another, by one block: a fixed number, so that sums do not depend on the device.
constexpr int64_t kGroupRows = 32;
constexpr int64_t group_count(int64_t rows) { return divide_up(rows, kGroupRows); }

}  // namespace sidetune::cuda
