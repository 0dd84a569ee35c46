#include "reduce.cuh"

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

template <class T>
struct Plain {
  const T* rows;
  template <int V>
  using Loaded = Numbers<V>;
  template <int V>
  __device__ Numbers<V> load(int64_t i) const {
    return sidetune::cuda::load<V>(rows + i);
  }
  template <int V>
  __device__ Numbers<V> finish(int64_t, const Numbers<V>& numbers) const {
    return numbers;
  }
};

}  // namespace

void add_groups(Cuda& cuda, const float* sums, int64_t groups, int64_t stride, int64_t width, float* to) {
  constexpr int kThreads = 64;
  launch(cuda, add_groups_kernel, {blocks_for(cuda.properties, width, kThreads), kThreads}, sums, groups, stride, width, to);
}

int64_t column_sums_scratch(int64_t count, int64_t width) { return Workspace::aligned<float>(group_count(count) * width); }

void add_column_sums(Cuda& cuda, const void* rows, DType dtype, int64_t count, int64_t width, float* to, Workspace scratch) {
  const int64_t groups = group_count(count);
  float* sums = scratch.take<float>(groups * width);
  dispatch(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    group_sums(cuda, Plain<T>{static_cast<const T*>(rows)}, count, width, sums);
  });
  add_groups(cuda, sums, groups, width, width, to);
}

}  // namespace sidetune::cuda
