#include "runtime.cuh"

namespace sidetune::cuda {

bool is_sticky(cudaError_t result) {
  switch (result) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorECCUncorrectable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

void check(cudaError_t result, const char* what) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // forgets it, unless it is sticky
  std::string text = std::string(what) + ": " + cudaGetErrorName(result) + ", " + cudaGetErrorString(result);
  if (is_sticky(result)) text += "; the device is lost to this process until it is closed and opened again";
  throw Error(result == cudaErrorMemoryAllocation ? Code::memory : Code::late, text);
}

Properties properties_of(int device) {
  cudaDeviceProp read;
  check(cudaGetDeviceProperties(&read, device), "reading the device's properties");
  Properties properties;
  properties.multiprocessors = read.multiProcessorCount;
  properties.shared_bytes = static_cast<int>(read.sharedMemPerBlock);
  properties.most_shared_bytes = static_cast<int>(read.sharedMemPerBlockOptin);
  properties.major = read.major;
  properties.minor = read.minor;
  properties.memory_bytes = static_cast<int64_t>(read.totalGlobalMem);
  properties.name = read.name;
  return properties;
}

}  // namespace sidetune::cuda
