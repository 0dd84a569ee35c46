#include "staging.cuh"

#include <algorithm>
#include <cstring>

namespace sidetune::cuda {
namespace {

// Large enough to reach the bus's bandwidth, small enough to fill one half while the other is on its way.
constexpr int64_t kHalfBytes = 4 << 20;

}  // namespace

Staging::~Staging() {
  for (const Half& half : halves_) {
    if (half.free) cudaEventDestroy(half.free);
    if (half.pinned) cudaFreeHost(half.pinned);
  }
}

// A half that no copy reads any more.
Staging::Half& Staging::next() {
  Half& half = halves_[turn_];
  turn_ = 1 - turn_;
  if (!half.pinned) check(cudaMallocHost(&half.pinned, kHalfBytes), "taking pinned memory");
  if (!half.free) {
    check(cudaEventCreateWithFlags(&half.free, cudaEventDisableTiming), "making an event");
  } else {
    check(cudaEventSynchronize(half.free), "waiting for a copy");
  }
  return half;
}

void Staging::copy_in(cudaStream_t stream, void* device, const void* host, int64_t bytes) {
  for (int64_t done = 0; done < bytes; done += kHalfBytes) {
    const auto count = static_cast<size_t>(std::min(kHalfBytes, bytes - done));
    const Half& half = next();
    std::memcpy(half.pinned, static_cast<const char*>(host) + done, count);
    check(cudaMemcpyAsync(static_cast<char*>(device) + done, half.pinned, count, cudaMemcpyHostToDevice, stream), "copying in");
    check(cudaEventRecord(half.free, stream), "recording an event");
  }
}

void Staging::copy_out(cudaStream_t stream, void* host, const void* device, int64_t bytes) {
  // One half fills while the host empties the other.
  struct Piece {
    const Half* half;
    char* to;
    size_t count;
  };
  Piece before = {};
  const auto empty = [](const Piece& piece) {
    if (!piece.half) return;
    check(cudaEventSynchronize(piece.half->free), "waiting for a copy");
    std::memcpy(piece.to, piece.half->pinned, piece.count);
  };
  for (int64_t done = 0; done < bytes; done += kHalfBytes) {
    const Piece piece{&next(), static_cast<char*>(host) + done, static_cast<size_t>(std::min(kHalfBytes, bytes - done))};
    check(
        cudaMemcpyAsync(piece.half->pinned, static_cast<const char*>(device) + done, piece.count, cudaMemcpyDeviceToHost, stream),
        "copying out");
    check(cudaEventRecord(piece.half->free, stream), "recording an event");
    empty(before);
    before = piece;
  }
  empty(before);
  check(cudaStreamSynchronize(stream), "waiting for the stream");
}

}  // namespace sidetune::cuda
