// Kernels of the kinds that native/cuda has.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <mma_instructions.cuh>

extern __shared__ __align__(128) unsigned char sidetune_shared[];

namespace sidetune::testing {

__device__ inline float warp_sum(float value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// `sums` are 32 floats of shared memory, which the next use may overwrite after one more barrier.
__device__ inline float block_sum(float value, float* sums) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? sums[threadIdx.x % 32] : 0.0f);
}

inline __global__ void sum_of_all(const float* from, int count, float* sum) {
  float own = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < count; i += static_cast<int>(gridDim.x * blockDim.x))
    own += from[i];
  own = block_sum(own, reinterpret_cast<float*>(sidetune_shared));
  if (threadIdx.x == 0) atomicAdd(sum, own);
}

// Blocks of 32x8 threads, tiles of 32x32 with a column for the banks.
inline __global__ void transpose(const float* from, float* to, int rows, int columns) {
  float* tile = reinterpret_cast<float*>(sidetune_shared);
  const int row0 = static_cast<int>(blockIdx.y) * 32, column0 = static_cast<int>(blockIdx.x) * 32;
  const int x = static_cast<int>(threadIdx.x);
  for (int y = static_cast<int>(threadIdx.y); y < 32; y += 8)
    if (row0 + y < rows && column0 + x < columns) tile[y * 33 + x] = from[(row0 + y) * columns + column0 + x];
  __syncthreads();
  for (int y = static_cast<int>(threadIdx.y); y < 32; y += 8)
    if (column0 + y < columns && row0 + x < rows) to[(column0 + y) * rows + row0 + x] = tile[x * 33 + y];
}

// A block owns a row, which lies in shared memory between the passes.
inline __global__ void softmax(const float* from, float* to, int columns) {
  float* sums = reinterpret_cast<float*>(sidetune_shared);
  float* row = sums + 32;
  from += static_cast<int64_t>(blockIdx.x) * columns;
  to += static_cast<int64_t>(blockIdx.x) * columns;
  float largest = -INFINITY;
  for (int column = static_cast<int>(threadIdx.x); column < columns; column += static_cast<int>(blockDim.x)) {
    row[column] = from[column];
    largest = fmaxf(largest, row[column]);
  }
  for (int distance = 16; distance > 0; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = largest;
  __syncthreads();
  for (unsigned warp = 0; warp < blockDim.x / 32; warp++) largest = fmaxf(largest, sums[warp]);
  float own = 0;
  for (int column = static_cast<int>(threadIdx.x); column < columns; column += static_cast<int>(blockDim.x))
    own += row[column] = __expf(row[column] - largest);
  __syncthreads();  // all have read `sums`
  const float sum = block_sum(own, sums);
  for (int column = static_cast<int>(threadIdx.x); column < columns; column += static_cast<int>(blockDim.x))
    to[column] = row[column] / sum;
}

// f32 to bf16, four at a time; count is a multiple of 4.
inline __global__ void swish(const float* from, __nv_bfloat16* to, int count) {
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < count / 4;
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    const float4 x = reinterpret_cast<const float4*>(from)[i];
    const auto one = [](float value) { return value / (1.0f + __expf(-value)); };
    __nv_bfloat162* pair = reinterpret_cast<__nv_bfloat162*>(to) + 2 * i;
    pair[0] = __floats2bfloat162_rn(one(x.x), one(x.y));
    pair[1] = __floats2bfloat162_rn(one(x.z), one(x.w));
  }
}

// Lanes hand numbers to each other through shared memory: out = in, reversed within each warp.
inline __global__ void reverse_in_warps(const int* from, int* to) {
  int* numbers = reinterpret_cast<int*>(sidetune_shared);
  numbers[threadIdx.x] = from[threadIdx.x];
  __syncwarp();
  to[threadIdx.x] = numbers[threadIdx.x ^ 31];
}

// A thread copies 16 bytes in each of two groups, waits for all but `Left` of them, and reads its mirror image's.
template <int Left>
__global__ void copy_in_groups(const float4* from, float4* to, int count) {
  auto* places = reinterpret_cast<float4*>(sidetune_shared);
  const int self = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int group = 0; group < 2; group++) {
    const int index = group * threads + self;
    cuda::copy_async_16(places + index, from + index, index < count);
    cuda::copy_async_commit();
  }
  cuda::copy_async_wait<Left>();
  __syncthreads();
  for (int group = 0; group < 2; group++) to[group * threads + self] = places[group * threads + threads - 1 - self];
}

}  // namespace sidetune::testing
