// The device, its properties, and launches on it.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

#include "errors.h"
#include "execution.h"
#include "memory.h"
#include "streams.h"

namespace sidetune::emulation {
namespace {

constexpr unsigned kMostThreads = 1024, kMostThreadsZ = 64;
constexpr unsigned kMostBlocks = 0x7fffffff, kMostBlocksYZ = 65535;
constexpr size_t kSharedBytes = size_t{48} << 10;  // without asking

std::mutex mutex;
std::map<const void*, size_t>& shared_bytes_of_kernels() {
  static auto& lasting = *new std::map<const void*, size_t>;
  return lasting;
}

size_t most_shared_bytes(const void* kernel) {
  const std::lock_guard lock(mutex);
  const auto found = shared_bytes_of_kernels().find(kernel);
  return found == shared_bytes_of_kernels().end() ? kSharedBytes : found->second;
}

cudaError_t check_launch(const cudaLaunchConfig_t& config, const KernelCall& call) {
  if (config.numAttrs != 0) return cudaErrorNotSupported;
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const auto is_in = [](unsigned value, unsigned most) { return value >= 1 && value <= most; };
  if (!is_in(grid.x, kMostBlocks) || !is_in(grid.y, kMostBlocksYZ) || !is_in(grid.z, kMostBlocksYZ) ||
      !is_in(block.x, kMostThreads) || !is_in(block.y, kMostThreads) || !is_in(block.z, kMostThreadsZ) ||
      uint64_t{block.x} * block.y * block.z > kMostThreads) {
    return cudaErrorInvalidConfiguration;
  }
  return config.dynamicSmemBytes > most_shared_bytes(call.kernel) ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, std::shared_ptr<const KernelCall> call) {
  if (const cudaError_t error = enter("cudaLaunchKernelEx")) return error;
  if (!check_stream("cudaLaunchKernelEx", config.stream)) return note(sticky_error());
  if (const cudaError_t error = check_launch(config, *call)) return note(error);
  const Launch launch = {config.gridDim, config.blockDim, config.dynamicSmemBytes, call.get()};
  return submit(config.stream, {kernel_name(call->kernel), [launch, call] { run_grid(launch); }, {}});
}

}  // namespace sidetune::emulation

using namespace sidetune::emulation;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  if (!count) return note(cudaErrorInvalidValue);
  if (!read_configuration()) return note(cudaErrorLaunchFailure);
  if (const cudaError_t error = enter("cudaGetDeviceCount")) return error;
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (const cudaError_t error = enter("cudaSetDevice")) return error;
  return device == 0 ? cudaSuccess : note(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int* device) {
  if (const cudaError_t error = enter("cudaGetDevice")) return error;
  if (!device) return note(cudaErrorInvalidValue);
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (const cudaError_t error = enter("cudaGetDeviceProperties")) return error;
  if (!properties) return note(cudaErrorInvalidValue);
  if (device != 0) return note(cudaErrorInvalidDevice);
  const Configuration c = configuration();
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "CUDA emulation");
  properties->totalGlobalMem = c.memory_bytes;
  properties->sharedMemPerBlock = kSharedBytes;
  properties->sharedMemPerBlockOptin = c.most_shared_bytes;
  properties->sharedMemPerMultiprocessor = c.most_shared_bytes + 1024;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = kMostThreads;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = kMostThreads;
  properties->maxThreadsDim[2] = kMostThreadsZ;
  properties->maxGridSize[0] = kMostBlocks;
  properties->maxGridSize[1] = properties->maxGridSize[2] = kMostBlocksYZ;
  properties->major = c.major;
  properties->minor = c.minor;
  properties->multiProcessorCount = c.multiprocessors;
  properties->l2CacheSize = 4 << 20;
  properties->maxThreadsPerMultiProcessor = 1536;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  if (const cudaError_t error = enter("cudaDriverGetVersion")) return error;
  if (!version) return note(cudaErrorInvalidValue);
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  if (const cudaError_t error = enter("cudaRuntimeGetVersion")) return error;
  if (!version) return note(cudaErrorInvalidValue);
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  if (const cudaError_t error = enter("cudaDeviceSynchronize")) return error;
  if (const cudaError_t error = refuse_in_capture()) return error;
  run_everything();
  return note(sticky_error());
}

cudaError_t cudaDeviceReset() {
  const bool is_well = sticky_error() == cudaSuccess;
  const std::string streams = destroy_all_streams(), memory = free_all_memory();
  if (is_well && !(streams.empty() && memory.empty()))
    report("cudaDeviceReset: left behind " + memory + (streams.empty() || memory.empty() ? "" : ", ") + streams);
  const cudaError_t error = is_well ? note(sticky_error()) : cudaSuccess;
  {
    const std::lock_guard lock(mutex);
    shared_bytes_of_kernels().clear();
  }
  forget_sticky_error();
  if (error == cudaSuccess) cudaGetLastError();
  return error;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (const cudaError_t error = enter("cudaFuncSetAttribute")) return error;
  if (!kernel) return note(cudaErrorInvalidDeviceFunction);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize && attribute != cudaFuncAttributePreferredSharedMemoryCarveout)
    return note(cudaErrorInvalidValue);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)
    return value >= -1 && value <= 100 ? cudaSuccess : note(cudaErrorInvalidValue);
  if (value < 0 || static_cast<size_t>(value) > configuration().most_shared_bytes) return note(cudaErrorInvalidValue);
  const std::lock_guard lock(mutex);
  shared_bytes_of_kernels()[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  if (const cudaError_t error = enter("cudaFuncGetAttributes")) return error;
  if (!attributes) return note(cudaErrorInvalidValue);
  if (!kernel) return note(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->maxThreadsPerBlock = kMostThreads;
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(most_shared_bytes(kernel));
  return cudaSuccess;
}

}  // extern "C"
