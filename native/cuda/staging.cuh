// Bytes between the host and the device, by way of pinned memory: the copy runs on the stream while the host goes on.
#pragma once

#include <cstdint>

#include "runtime.cuh"

namespace sidetune::cuda {

class Staging {
 public:
  Staging() = default;
  ~Staging();
  Staging(const Staging&) = delete;

  // `host` may be let go when this returns; the device has the bytes when the stream gets there.
  void copy_in(cudaStream_t stream, void* device, const void* host, int64_t bytes);
  // Waits for the stream.
  void copy_out(cudaStream_t stream, void* host, const void* device, int64_t bytes);

 private:
  struct Half {
    void* pinned = nullptr;
    cudaEvent_t free = nullptr;  // recorded behind the last copy out of it
  };
  Half& next();

  Half halves_[2];
  int turn_ = 0;
};

}  // namespace sidetune::cuda
