// What every CUDA kernel file includes: the device's state, and the macro that enters a kernel into the table.
//
// A family's file defines, in namespace sidetune::cuda,
//   void run(Cuda& cuda, const LayerNormForward& k, Workspace scratch);    // launches on cuda.stream and returns
//   int64_t workspace(Cuda& cuda, const LayerNormBackward& k);             // only if it needs scratch memory; of shapes alone
// and, once per kernel, SIDETUNE_CUDA_KERNEL(LayerNormForward).
#pragma once

#include <memory>

#include "../backend.h"
#include "../status.h"
#include "findings.cuh"
#include "runtime.cuh"

namespace sidetune {

namespace cuda {
class Staging;
class Gemms;
}  // namespace cuda

// An open CUDA device: one stream, on which everything runs in order.
struct BackendDevice {
  BackendDevice(int index, bool tf32);
  ~BackendDevice();
  BackendDevice(const BackendDevice&) = delete;

  // Lets go of everything but memory.
  void stop();

  const int index;
  const bool tf32;  // f32 products may round their operands to 10 bits
  const cuda::Properties properties;
  int64_t resets = 0;  // of this process's devices, when this one was opened: memory does not outlive a reset
  cudaStream_t stream = nullptr;
  std::unique_ptr<cuda::Staging> staging;
  std::unique_ptr<cuda::Gemms> gemms;
  std::unique_ptr<cuda::Findings> findings;
};

namespace cuda {

using Cuda = BackendDevice;

template <class Arguments>
int64_t workspace(Cuda&, const Arguments&) {
  return 0;
}

template <class Arguments>
Entry<Arguments> entry();

// Makes the device the calling thread's own.
void use(Cuda& cuda);

}  // namespace cuda
}  // namespace sidetune

#define SIDETUNE_CUDA_KERNEL(Arguments)                                                          \
  static Status run_##Arguments(Cuda& cuda, const Arguments& k, Workspace scratch) noexcept {    \
    try {                                                                                        \
      use(cuda);                                                                                 \
      cuda.findings->begin_call(#Arguments);                                                     \
      run(cuda, k, scratch);                                                                     \
      Status status;                                                                             \
      status.ticket = cuda.findings->ticket();                                                   \
      return status;                                                                             \
    } catch (...) {                                                                              \
      return status_of_current_exception();                                                      \
    }                                                                                            \
  }                                                                                              \
  static Status workspace_##Arguments(Cuda& cuda, const Arguments& k, int64_t* bytes) noexcept { \
    try {                                                                                        \
      *bytes = workspace(cuda, k);                                                               \
      return {};                                                                                 \
    } catch (...) {                                                                              \
      return status_of_current_exception();                                                      \
    }                                                                                            \
  }                                                                                              \
  template <>                                                                                    \
  Entry<Arguments> entry<Arguments>() {                                                          \
    return {run_##Arguments, workspace_##Arguments};                                             \
  }
