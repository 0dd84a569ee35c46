// Shared memory: all of it is asked for at the launch (Grid::shared_bytes) and cut up by the kernel in the same order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

extern __shared__ __align__(128) unsigned char sidetune_shared[];

namespace sidetune::cuda {

// Bytes that take<T>(count) uses up.
template <class T>
__host__ __device__ constexpr int64_t shared_bytes(int64_t count) {
  return (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
}

class SharedMemory {
 public:
  __device__ SharedMemory() : next_(sidetune_shared) {}

  // The next `count` numbers, 16-byte aligned.
  template <class T>
  __device__ T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(next_);
    next_ += shared_bytes<T>(count);
    return taken;
  }

 private:
  unsigned char* next_;
};

}  // namespace sidetune::cuda
