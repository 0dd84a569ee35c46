#include "../scale_shift.h"

#include "launch.cuh"
#include "reduce.cuh"
#include "vector.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kAtOnce = 4;  // rows of a thread that are on their way together

// out = x ∘ scale + shift; without shift the gradient of x. A thread owns V columns of kAtOnce rows.
template <class T, int V>
__global__ void scale_shift_rows(const T* x, const float* scale, const float* shift, T* out, int64_t rows, int64_t d) {
  const int64_t vectors = d / V, units = divide_up(rows, kAtOnce) * vectors;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; unit < units; unit += threads) {
    const int64_t row = unit / vectors * kAtOnce, column = unit % vectors * V;
    Numbers<V> loaded[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++)
      if (row + i < rows) loaded[i] = load<V>(x + (row + i) * d + column);
    const Numbers<V> factor = load<V>(scale + column);
    Numbers<V> summand = {};
    if (shift) summand = load<V>(shift + column);
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (row + i >= rows) continue;
      for (int n = 0; n < V; n++) loaded[i][n] = shift ? loaded[i][n] * factor[n] + summand[n] : loaded[i][n] * factor[n];
      store(out + (row + i) * d + column, loaded[i]);
    }
  }
}

template <class T>
void scale_rows(Cuda& cuda, const Tensor& x, const Tensor& scale, const float* shift, const Tensor& out) {
  const int64_t rows = x.rows(), d = x.dim(-1);
  dispatch_width(d, [&](auto width) {
    const int64_t units = divide_up(rows, kAtOnce) * (d / width.value);
    launch(cuda, scale_shift_rows<T, width.value>, {blocks_for(cuda.properties, units, kThreads), kThreads}, x.as<const T>(),
           scale.as<const float>(), shift, out.as<T>(), rows, d);
  });
}

// A thread owns V columns of a group of rows: it reads gradOut and x once, writes gradX (null where unwanted) and keeps the
// group's sums for gradScale (`scale_sums`) and gradShift (`shift_sums`; each null where unwanted).
template <class T, int V>
__global__ void scale_shift_backward(const T* grad_out, const T* x, const float* scale, T* grad_x, float* scale_sums,
                                     float* shift_sums, int64_t rows, int64_t d) {
  const int64_t vectors = d / V, units = group_count(rows) * vectors;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; unit < units; unit += threads) {
    const int64_t group = unit / vectors, column = unit % vectors * V;
    const int64_t begin = group * kGroupRows, end = begin + kGroupRows < rows ? begin + kGroupRows : rows;
    Numbers<V> factor = {}, scale_sum = {}, shift_sum = {};
    if (grad_x) factor = load<V>(scale + column);
    for (int64_t row = begin; row < end; row += kAtOnce) {
      Numbers<V> gradients[kAtOnce], numbers[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        if (row + i >= end) continue;
        gradients[i] = load<V>(grad_out + (row + i) * d + column);
        if (scale_sums) numbers[i] = load<V>(x + (row + i) * d + column);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        if (row + i >= end) continue;
        for (int n = 0; n < V; n++) {
          if (scale_sums) scale_sum[n] += gradients[i][n] * numbers[i][n];
          shift_sum[n] += gradients[i][n];
          gradients[i][n] *= factor[n];
        }
        if (grad_x) store(grad_x + (row + i) * d + column, gradients[i]);
      }
    }
    if (scale_sums) store(scale_sums + group * d + column, scale_sum);
    if (shift_sums) store(shift_sums + group * d + column, shift_sum);
  }
}

}  // namespace

void run(Cuda& cuda, const ScaleShiftForward& k, Workspace) {
  dispatch(k.x.dtype,
           [&](auto type) { scale_rows<typename decltype(type)::type>(cuda, k.x, k.scale, k.shift.as<const float>(), k.out); });
}

int64_t workspace(Cuda&, const ScaleShiftBackward& k) {
  const int64_t sums = (k.grad_scale ? 1 : 0) + (k.grad_shift ? 1 : 0);
  return sums * Workspace::aligned<float>(group_count(k.grad_out.rows()) * k.grad_out.dim(-1));
}

void run(Cuda& cuda, const ScaleShiftBackward& k, Workspace scratch) {
  const int64_t rows = k.grad_out.rows(), groups = group_count(rows), d = k.grad_out.dim(-1);
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (!k.grad_scale && !k.grad_shift) {
      if (k.grad_x) scale_rows<T>(cuda, k.grad_out, k.scale, nullptr, k.grad_x);
      return;
    }
    float* scale_sums = k.grad_scale ? scratch.take<float>(groups * d) : nullptr;
    float* shift_sums = k.grad_shift ? scratch.take<float>(groups * d) : nullptr;
    dispatch_width(d, [&](auto width) {
      const int64_t units = groups * (d / width.value);
      launch(cuda, scale_shift_backward<T, width.value>, {blocks_for(cuda.properties, units, kThreads), kThreads},
             k.grad_out.as<const T>(), k.x.as<const T>(), k.scale.as<const float>(), k.grad_x.as<T>(), scale_sums, shift_sums,
             rows, d);
    });
    if (scale_sums) add_groups(cuda, scale_sums, groups, d, d, k.grad_scale.as<float>());
    if (shift_sums) add_groups(cuda, shift_sums, groups, d, d, k.grad_shift.as<float>());
  });
}

SIDETUNE_CUDA_KERNEL(ScaleShiftForward)
SIDETUNE_CUDA_KERNEL(ScaleShiftBackward)

}  // namespace sidetune::cuda
