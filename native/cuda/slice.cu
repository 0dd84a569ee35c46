#include "../slice.h"

#include "launch.cuh"
#include "vector.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kThreads = 128;

// A thread owns V numbers of the dense [rows, width] side; the window's rows are `leading` numbers apart.
template <int V>
__global__ void __launch_bounds__(kThreads)
    slice_copy(const float* __restrict__ window, int64_t leading, float* __restrict__ out, int64_t rows, int64_t width) {
  const int64_t vectors = width / V, threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; unit < rows * vectors; unit += threads) {
    const int64_t row = unit / vectors, column = unit % vectors * V;
    store(out + row * width + column, load<V>(window + row * leading + column));
  }
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    slice_add(const float* __restrict__ grad_out, float* __restrict__ window, int64_t leading, int64_t rows, int64_t width) {
  const int64_t vectors = width / V, threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; unit < rows * vectors; unit += threads) {
    const int64_t row = unit / vectors, column = unit % vectors * V;
    const Numbers<V> gradient = load<V>(grad_out + row * width + column);
    Numbers<V> sum = load<V>(window + row * leading + column);
    for (int n = 0; n < V; n++) sum[n] += gradient[n];
    store(window + row * leading + column, sum);
  }
}

Grid grid_of(Cuda& cuda, int64_t units) { return {blocks_for(cuda.properties, units, kThreads), kThreads}; }

}  // namespace

void run(Cuda& cuda, const SliceForward& k, Workspace) {
  const int64_t C = k.x.dim(1), rows = k.out.dim(0), width = k.out.dim(1);
  const float* window = k.x.as<const float>() + k.rows[0] * C + k.columns[0];
  dispatch_fours(C | width | k.columns[0], [&](auto v) {
    launch(cuda, slice_copy<v.value>, grid_of(cuda, rows * (width / v.value)), window, C, k.out.as<float>(), rows, width);
  });
}

void run(Cuda& cuda, const SliceBackward& k, Workspace) {
  const int64_t C = k.grad_x.dim(1), rows = k.grad_out.dim(0), width = k.grad_out.dim(1);
  float* window = k.grad_x.as<float>() + k.rows[0] * C + k.columns[0];
  dispatch_fours(C | width | k.columns[0], [&](auto v) {
    launch(cuda, slice_add<v.value>, grid_of(cuda, rows * (width / v.value)), k.grad_out.as<const float>(), window, C, rows,
           width);
  });
}

SIDETUNE_CUDA_KERNEL(SliceForward)
SIDETUNE_CUDA_KERNEL(SliceBackward)

}  // namespace sidetune::cuda
