// What the threads of a warp or block do together. Whole warps take part.
#pragma once

#include <cuda_runtime.h>

namespace sidetune::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / kWarp; }

// What the lanes of the warp wrote before, each of them reads after it.
__device__ inline void warp_barrier() { __syncwarp(); }

// Over the lanes of the warp, or over each `Lanes` of them (a power of two) that lie side by side; they all get the same bits.
template <int Lanes = kWarp>
__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}
template <int Lanes = kWarp>
__device__ inline float warp_max(float value) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

// Sums each of `values` (a power of two of them, at most kWarp) over the warp: lane l gets that of values[l % N]. Each step
// halves what a lane still adds up, so 32 sums take 31 shuffles.
template <int kHalf, int N>
__device__ void halve(float (&values)[N]) {
  const bool upper = lane() & kHalf;
#pragma unroll
  for (int i = 0; i < kHalf; i++) {
    const float kept = upper ? values[i + kHalf] : values[i], given = upper ? values[i] : values[i + kHalf];
    values[i] = kept + __shfl_xor_sync(kAllLanes, given, kHalf);
  }
  if constexpr (kHalf > 1) halve<kHalf / 2>(values);
}
template <int N>
__device__ float warp_sums(float (&values)[N]) {
  halve<N / 2>(values);
  float sum = values[0];
#pragma unroll
  for (int distance = N; distance < kWarp; distance *= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
  return sum;
}

// Over the threads of the block; every thread gets the same bits. `sums` and `largest` are kWarp floats of shared memory, which
// may be used again after the next barrier.
__device__ inline float block_sum(float value, float* sums) {
  value = warp_sum(value);
  if (lane() == 0) sums[warp()] = value;
  __syncthreads();
  const int warps = (static_cast<int>(blockDim.x) + kWarp - 1) / kWarp;
  return warp_sum(lane() < warps ? sums[lane()] : 0.0f);
}
__device__ inline float block_max(float value, float* largest) {
  value = warp_max(value);
  if (lane() == 0) largest[warp()] = value;
  __syncthreads();
  const int warps = (static_cast<int>(blockDim.x) + kWarp - 1) / kWarp;
  return warp_max(largest[lane() < warps ? lane() : 0]);
}

}  // namespace sidetune::cuda
