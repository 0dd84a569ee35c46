// The part of the CUDA runtime's host interface that native/cuda uses, with the toolkit's signatures.
#pragma once

#include <cstddef>
#include <memory>
#include <tuple>
#include <utility>

#include "types.h"

#define CUDART_VERSION 13000

// name, value, text, whether every later call fails with it until cudaDeviceReset
#define SIDETUNE_CUDA_ERRORS(ERROR)                                                                                         \
  ERROR(cudaSuccess, 0, "no error", false)                                                                                  \
  ERROR(cudaErrorInvalidValue, 1, "invalid argument", false)                                                                \
  ERROR(cudaErrorMemoryAllocation, 2, "out of memory", false)                                                               \
  ERROR(cudaErrorInitializationError, 3, "initialization error", false)                                                     \
  ERROR(cudaErrorInvalidConfiguration, 9, "invalid configuration argument", false)                                          \
  ERROR(cudaErrorInvalidDevicePointer, 17, "invalid device pointer", false)                                                 \
  ERROR(cudaErrorInvalidMemcpyDirection, 21, "invalid copy direction for memcpy", false)                                    \
  ERROR(cudaErrorInsufficientDriver, 35, "CUDA driver version is insufficient for CUDA runtime version", false)             \
  ERROR(cudaErrorDevicesUnavailable, 46, "CUDA-capable device(s) is/are busy or unavailable", false)                        \
  ERROR(cudaErrorInvalidDeviceFunction, 98, "invalid device function", false)                                               \
  ERROR(cudaErrorNoDevice, 100, "no CUDA-capable device is detected", false)                                                \
  ERROR(cudaErrorInvalidDevice, 101, "invalid device ordinal", false)                                                       \
  ERROR(cudaErrorInvalidKernelImage, 200, "device kernel image is invalid", false)                                          \
  ERROR(cudaErrorNoKernelImageForDevice, 209, "no kernel image is available for execution on the device", false)            \
  ERROR(cudaErrorECCUncorrectable, 214, "uncorrectable ECC error encountered", true)                                        \
  ERROR(cudaErrorInvalidResourceHandle, 400, "invalid resource handle", false)                                              \
  ERROR(cudaErrorNotReady, 600, "device not ready", false)                                                                  \
  ERROR(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered", true)                                     \
  ERROR(cudaErrorLaunchOutOfResources, 701, "too many resources requested for launch", false)                               \
  ERROR(cudaErrorLaunchTimeout, 702, "the launch timed out and was terminated", true)                                       \
  ERROR(cudaErrorAssert, 710, "device-side assert triggered", true)                                                         \
  ERROR(cudaErrorHardwareStackError, 714, "hardware stack error", true)                                                     \
  ERROR(cudaErrorIllegalInstruction, 715, "an illegal instruction was encountered", true)                                   \
  ERROR(cudaErrorMisalignedAddress, 716, "misaligned address", true)                                                        \
  ERROR(cudaErrorInvalidAddressSpace, 717, "operation not supported on global/shared address space", true)                  \
  ERROR(cudaErrorInvalidPc, 718, "invalid program counter", true)                                                           \
  ERROR(cudaErrorLaunchFailure, 719, "unspecified launch failure", true)                                                    \
  ERROR(cudaErrorNotSupported, 801, "operation not supported", false)                                                       \
  ERROR(cudaErrorStreamCaptureUnsupported, 900, "operation not permitted when stream is capturing", false)                  \
  ERROR(cudaErrorStreamCaptureInvalidated, 901, "operation failed due to a previous error during capture", false)           \
  ERROR(cudaErrorStreamCaptureWrongThread, 908, "attempt to terminate a thread-local capture sequence from another thread", \
        false)                                                                                                              \
  ERROR(cudaErrorIllegalState, 401, "the operation cannot be performed in the present state", false)                        \
  ERROR(cudaErrorUnknown, 999, "unknown error", true)

enum cudaError {
#define SIDETUNE_ERROR(name, value, text, sticky) name = value,
  SIDETUNE_CUDA_ERRORS(SIDETUNE_ERROR)
#undef SIDETUNE_ERROR
};
typedef cudaError cudaError_t;

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2
};
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2
};

#define cudaStreamDefault 0x00
#define cudaStreamNonBlocking 0x01
#define cudaEventDefault 0x00
#define cudaEventBlockingSync 0x01
#define cudaEventDisableTiming 0x02

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  size_t sharedMemPerBlock;
  int regsPerBlock;
  int warpSize;
  int maxThreadsPerBlock;
  int maxThreadsDim[3];
  int maxGridSize[3];
  int major;
  int minor;
  int multiProcessorCount;
  int l2CacheSize;
  int maxThreadsPerMultiProcessor;
  size_t sharedMemPerMultiprocessor;
  size_t sharedMemPerBlockOptin;
};

struct cudaFuncAttributes {
  size_t sharedSizeBytes;
  size_t constSizeBytes;
  size_t localSizeBytes;
  int maxThreadsPerBlock;
  int numRegs;
  int maxDynamicSharedSizeBytes;
};

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
typedef struct CUgraph_st* cudaGraph_t;
typedef struct CUgraphExec_st* cudaGraphExec_t;

struct cudaLaunchAttribute;  // none is supported
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

extern "C" {
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaDeviceReset();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);

cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);

cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMallocHost(void** pointer, size_t bytes);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = nullptr);
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream = nullptr);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end);
cudaError_t cudaEventDestroy(cudaEvent_t event);

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
}

template <class T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}
template <class T>
cudaError_t cudaMallocHost(T** pointer, size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void**>(pointer), bytes);
}
template <class T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class T>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, T* kernel) {
  return cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(kernel));
}

namespace sidetune::emulation {

// A kernel with its arguments; run() is one thread's call of it.
class KernelCall {
 public:
  KernelCall(const void* kernel, size_t bytes) : kernel(kernel), bytes(bytes) {}
  virtual ~KernelCall() = default;
  virtual void run() const = 0;

  const void* const kernel;
  const size_t bytes;  // of this object: kernels read their arguments in it
};

template <class... Parameters>
class KernelCallOf final : public KernelCall {
 public:
  template <class... Arguments>
  explicit KernelCallOf(void (*kernel)(Parameters...), Arguments&&... arguments)
      : KernelCall(reinterpret_cast<const void*>(kernel), sizeof(*this)),
        kernel_(kernel),
        arguments_(static_cast<Parameters>(std::forward<Arguments>(arguments))...) {}
  void run() const override { std::apply(kernel_, arguments_); }

 private:
  void (*kernel_)(Parameters...);
  std::tuple<Parameters...> arguments_;
};

cudaError_t launch(const cudaLaunchConfig_t& config, std::shared_ptr<const KernelCall> call);

}  // namespace sidetune::emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "a kernel is launched with as many arguments as it has");
  static_assert((!std::is_reference_v<Parameters> && ...), "arguments of kernels are copied to the device");
  if (!config || !kernel) return cudaErrorInvalidValue;
  return sidetune::emulation::launch(*config, std::make_shared<const sidetune::emulation::KernelCallOf<Parameters...>>(
                                                  kernel, std::forward<Arguments>(arguments)...));
}
