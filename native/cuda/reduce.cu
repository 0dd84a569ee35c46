#include "reduce.cuh"

#include "launch.cuh"

namespace sidetune::cuda {
namespace {

// A thread owns a column; four sums hide the latency of the loads.
__global__ void add_groups_kernel(const float* sums, int64_t groups, int64_t stride, int64_t width, float* to) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; column < width; column += step) {
    float partial[4] = {};
    for (int64_t group = 0; group < groups; group += 4) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (group + i < groups) partial[i] += sums[(group + i) * stride + column];
    }
    to[column] += (partial[0] + partial[1]) + (partial[2] + partial[3]);
  }
}

}  // namespace

void add_groups(Cuda& cuda, const float* sums, int64_t groups, int64_t stride, int64_t width, float* to) {
  constexpr int kThreads = 64;
  launch(cuda, add_groups_kernel, {blocks_for(cuda.properties, width, kThreads), kThreads}, sums, groups, stride, width, to);
}

}  // namespace sidetune::cuda
