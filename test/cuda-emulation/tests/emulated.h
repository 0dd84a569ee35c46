// A device for a test: opened with a configuration, left as it was found.
#pragma once

#include <cuda_runtime.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "testing.h"

extern __shared__ __align__(128) unsigned char sidetune_shared[];

namespace sidetune::testing {

#define SUCCEEDS(call) CHECK_EQUAL(std::string(cudaGetErrorName(call)), "cudaSuccess")

class Emulated {
 public:
  explicit Emulated(const char* configuration = "") {
    setenv("SIDETUNE_EMULATION", configuration, 1);
    int count = 0;
    cudaGetDeviceCount(&count);
    CHECK_EQUAL(count, 1);
    SUCCEEDS(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  }
  ~Emulated() {
    cudaStreamDestroy(stream);
    const cudaError_t error = cudaDeviceReset();
    if (error != cudaSuccess) fail("cudaDeviceReset", 0, cudaGetErrorString(error));
  }
  Emulated(const Emulated&) = delete;

  template <class... P, class... A>
  cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
  }

  // Runs a kernel that is wrong; its report, which must have become the error that stays.
  template <class... P, class... A>
  std::string report_of(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... arguments) {
    launch(kernel, grid, block, shared_bytes, arguments...);
    return report();
  }
  std::string report() {
    const cudaError_t error = cudaStreamSynchronize(stream);
    return error == cudaErrorLaunchFailure ? cudaGetErrorString(error) : cudaGetErrorName(error);
  }

  cudaStream_t stream = nullptr;
};

// Numbers on the device.
template <class T>
class Numbers {
 public:
  Numbers(Emulated& device, size_t count) : device_(device), count_(count) {
    void* data = nullptr;
    SUCCEEDS(cudaMalloc(&data, count * sizeof(T)));
    data_ = static_cast<T*>(data);
  }
  Numbers(Emulated& device, const std::vector<T>& values) : Numbers(device, values.size()) {
    SUCCEEDS(cudaMemcpyAsync(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, device.stream));
    SUCCEEDS(cudaStreamSynchronize(device.stream));
  }
  ~Numbers() { cudaFree(data_); }
  Numbers(const Numbers&) = delete;

  T* data() { return data_; }
  std::vector<T> read() {
    std::vector<T> values(count_);
    SUCCEEDS(cudaMemcpyAsync(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost, device_.stream));
    SUCCEEDS(cudaStreamSynchronize(device_.stream));
    return values;
  }

 private:
  Emulated& device_;
  const size_t count_;
  T* data_ = nullptr;
};

inline float4* as_vectors(Numbers<float>& numbers) { return reinterpret_cast<float4*>(numbers.data()); }

inline void check_contains(const std::string& text, const std::string& part, const char* file, int line) {
  if (text.find(part) == std::string::npos) fail(file, line, "'" + text + "' does not contain '" + part + "'");
}
#define CHECK_CONTAINS(text, part) sidetune::testing::check_contains(text, part, __FILE__, __LINE__)

// Every order of threads and blocks.
constexpr const char* kOrders[] = {"order=ascending", "order=descending", "order=shuffled seed=1", "order=shuffled seed=2"};

}  // namespace sidetune::testing
