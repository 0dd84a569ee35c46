#include "../factor.h"

#include "launch.cuh"
#include "vector.cuh"
#include "warp.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

// What all kernels here look at. `factors` points to the first column at work.
struct Shape {
  int64_t r, count, T;
  FactorPlaces places;
  __device__ int64_t place(int64_t pair, int64_t t) const {
    return pair / r * places.of_a + pair % r * places.of_b + t * places.of_t;
  }
};

// A warp owns one (a, b): its lanes share the sum over c.
__global__ void __launch_bounds__(kThreads)
    factor_forward(const float* __restrict__ core, const float* __restrict__ factors, float* __restrict__ out, Shape shape) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t pair = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; pair < shape.r * shape.r; pair += warps) {
    for (int64_t t = 0; t < shape.count; t++) {
      float sum = 0;
      for (int64_t c = lane; c < shape.r; c += 32) sum += core[pair * shape.r + c] * factors[c * shape.T + t];
      sum = warp_sum(sum);
      if (lane == 0) out[shape.place(pair, t)] = sum;
    }
  }
}

// A thread owns one number of gradCore.
__global__ void __launch_bounds__(kThreads) factor_core(const float* __restrict__ grad_out, const float* __restrict__ factors,
                                                        float* __restrict__ grad_core, Shape shape) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads, numbers = shape.r * shape.r * shape.r;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < numbers; i += threads) {
    const int64_t pair = i / shape.r, c = i % shape.r;
    float sum = 0;
    for (int64_t t = 0; t < shape.count; t++) sum += grad_out[shape.place(pair, t)] * factors[c * shape.T + t];
    grad_core[i] += sum;
  }
}

// A thread owns the sum of one group of (a, b) for one (t, c).
__global__ void __launch_bounds__(kThreads)
    factor_groups(const float* __restrict__ grad_out, const float* __restrict__ core, float* __restrict__ sums, Shape shape) {
  const int64_t width = shape.count * shape.r, pairs = shape.r * shape.r, units = group_count(pairs) * width;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; unit < units; unit += threads) {
    const int64_t group = unit / width, t = unit % width / shape.r, c = unit % shape.r;
    const int64_t begin = group * kGroupRows, end = begin + kGroupRows < pairs ? begin + kGroupRows : pairs;
    float sum = 0;
    for (int64_t pair = begin; pair < end; pair++) sum += grad_out[shape.place(pair, t)] * core[pair * shape.r + c];
    sums[unit] = sum;
  }
}

// A thread owns one number of gradFactors and adds the groups in order.
__global__ void __launch_bounds__(kThreads)
    factor_sum(const float* __restrict__ sums, float* __restrict__ grad_factors, Shape shape) {
  const int64_t width = shape.count * shape.r, groups = group_count(shape.r * shape.r);
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; unit < width; unit += threads) {
    float sum = 0;
    for (int64_t group = 0; group < groups; group++) sum += sums[group * width + unit];
    grad_factors[unit % shape.r * shape.T + unit / shape.r] += sum;
  }
}

Grid grid_of(Cuda& cuda, int64_t units, int per_block = kThreads) {
  return {blocks_for(cuda.properties, units, per_block), kThreads};
}

}  // namespace

void run(Cuda& cuda, const FactorContractForward& k, Workspace) {
  const int64_t r = k.core.dim(0);
  launch(cuda, factor_forward, grid_of(cuda, r * r, kWarps), k.core.as<const float>(), k.factors.as<const float>() + k.column,
         k.out.as<float>(), Shape{r, k.count, k.factors.dim(1), {k.layout, r, k.count}});
}

void run(Cuda& cuda, const FactorContractBackward& k, Workspace scratch) {
  const int64_t r = k.grad_out.dim(1);
  const float* grad_out = k.grad_out.as<const float>();
  const FactorPlaces places(k.layout, r, k.count);
  if (k.grad_core) {
    launch(cuda, factor_core, grid_of(cuda, r * r * r), grad_out, k.factors.as<const float>() + k.column, k.grad_core.as<float>(),
           Shape{r, k.count, k.factors.dim(1), places});
  }
  if (k.grad_factors) {
    const Shape shape{r, k.count, k.grad_factors.dim(1), places};
    float* sums = scratch.take<float>(group_count(r * r) * k.count * r);
    launch(cuda, factor_groups, grid_of(cuda, group_count(r * r) * k.count * r), grad_out, k.core.as<const float>(), sums, shape);
    launch(cuda, factor_sum, grid_of(cuda, k.count * r), static_cast<const float*>(sums), k.grad_factors.as<float>() + k.column,
           shape);
  }
}

int64_t workspace(Cuda&, const FactorContractBackward& k) {
  const int64_t r = k.grad_out.dim(1);
  return k.grad_factors ? Workspace::aligned<float>(group_count(r * r) * k.count * r) : 0;
}

SIDETUNE_CUDA_KERNEL(FactorContractForward)
SIDETUNE_CUDA_KERNEL(FactorContractBackward)

}  // namespace sidetune::cuda
