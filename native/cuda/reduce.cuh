// Sums over rows in two stages with a fixed order: blocks write one row of sums for each group of kGroupRows rows, and
// add_groups() adds them up. No float atomics: the bits do not depend on the device or on chance.
#pragma once

#include "launch.cuh"
#include "vector.cuh"

namespace sidetune::cuda {

// to[c] += Σ_group sums[group, c] for each of `width` columns, group after group; rows of `sums` are `stride` floats apart.
void add_groups(Cuda& cuda, const float* sums, int64_t groups, int64_t stride, int64_t width, float* to);

// A thread owns V columns of a group of rows and adds them up, four rows at a time on their way. `rows` says what is added:
//   template <int V> using Loaded = …;                                              // what is read of a row
//   template <int V> __device__ Loaded<V> load(int64_t i) const;                    // numbers i … i + V − 1 of all rows
//   template <int V> __device__ Numbers<V> finish(int64_t i, const Loaded<V>&) const;
// `sums` may be null, where finish() alone is wanted.
template <class Source, int V>
__global__ void group_sums_kernel(const Source rows, int64_t count, int64_t width, float* sums) {
  constexpr int kAtOnce = 4;
  const int64_t vectors = width / V, units = group_count(count) * vectors;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; unit < units; unit += threads) {
    const int64_t group = unit / vectors, column = unit % vectors * V;
    const int64_t begin = group * kGroupRows, end = begin + kGroupRows < count ? begin + kGroupRows : count;
    Numbers<V> sum = {};
    for (int64_t row = begin; row < end; row += kAtOnce) {
      typename Source::template Loaded<V> loaded[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; i++)
        if (row + i < end) loaded[i] = rows.template load<V>((row + i) * width + column);
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        if (row + i >= end) continue;
        const Numbers<V> numbers = rows.template finish<V>((row + i) * width + column, loaded[i]);
        for (int n = 0; n < V; n++) sum[n] += numbers[n];
      }
    }
    if (sums) store(sums + group * width + column, sum);
  }
}

// sums[group, c], for add_groups, of `count` rows.
template <class Source>
void group_sums(Cuda& cuda, const Source& rows, int64_t count, int64_t width, float* sums) {
  constexpr int kThreads = 128;
  dispatch_width(width, [&](auto v) {
    const int64_t units = group_count(count) * (width / v.value);
    launch(cuda, group_sums_kernel<Source, v.value>, {blocks_for(cuda.properties, units, kThreads), kThreads}, rows, count, width,
           sums);
  });
}

// to[c] += Σ_row rows[row, c].
int64_t column_sums_scratch(int64_t count, int64_t width);
void add_column_sums(Cuda& cuda, const void* rows, DType dtype, int64_t count, int64_t width, float* to, Workspace scratch);

}  // namespace sidetune::cuda
