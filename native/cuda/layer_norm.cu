#include "../layer_norm.h"

#include "launch.cuh"
#include "reduce.cuh"
#include "shared.cuh"
#include "vector.cuh"
#include "warp.cuh"

namespace sidetune::cuda {
namespace {

// A warp owns a row. The row is read once from memory: `cache` (d floats a warp of shared memory; null where a row is too long)
// serves the second and third look at it. A lane reads back what it wrote itself, so no barrier is needed.
template <class T, int V>
__global__ void layer_norm_forward(const T* x, const float* weight, const float* bias, T* out, float* mean, float* rstd,
                                   uint8_t* bytes, float* step, int64_t rows, int d, float eps, bool cached) {
  SharedMemory shared;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  float* cache = cached ? shared.take<float>(static_cast<int64_t>(warps) * d) + warp() * d : nullptr;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp(); row < rows;
       row += static_cast<int64_t>(gridDim.x) * warps) {
    const T* from = x + row * d;
    const auto at = [&](int column) { return cache ? load<V>(cache + column) : load<V>(from + column); };
    float sum = 0;
    for (int column = lane() * V; column < d; column += kWarp * V) {
      const Numbers<V> numbers = load<V>(from + column);
      for (int i = 0; i < V; i++) sum += numbers[i];
      if (cache) store(cache + column, numbers);
    }
    const float center = warp_sum(sum) / static_cast<float>(d);
    float squares = 0;
    for (int column = lane() * V; column < d; column += kWarp * V) {
      const Numbers<V> numbers = at(column);
      for (int i = 0; i < V; i++) squares += (numbers[i] - center) * (numbers[i] - center);
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + eps);
    for (int column = lane() * V; column < d; column += kWarp * V) {
      Numbers<V> numbers = at(column);
      const Numbers<V> w = load<V>(weight + column), b = load<V>(bias + column);
      for (int i = 0; i < V; i++) numbers[i] = (numbers[i] - center) * scale * w[i] + b[i];
      store(out + row * d + column, numbers);
    }
    if (lane() == 0) {
      if (mean) mean[row] = center;
      if (rstd) rstd[row] = scale;
    }
    if (!bytes) continue;
    float largest = 0;
    for (int column = lane() * V; column < d; column += kWarp * V) {
      const Numbers<V> numbers = at(column);
      for (int i = 0; i < V; i++) largest = fmaxf(largest, fabsf((numbers[i] - center) * scale));
    }
    const float size = warp_max(largest) / 127, per_step = size > 0 ? 1 / size : 0;
    for (int column = lane() * V; column < d; column += kWarp * V) {
      Numbers<V> numbers = at(column);
      for (int i = 0; i < V; i++) numbers[i] = rintf(fmaf((numbers[i] - center) * scale, per_step, 128.0f));
      store(bytes + row * d + column, numbers);
    }
    if (lane() == 0) step[row] = size;
  }
}

// A block owns a group of rows and walks through it; a thread owns the same columns in each. g and xhat of a row lie in shared
// memory (2 d floats) between the sums and the result, and so do the group's sums for gradWeight and gradBias (2 d more). Both
// are the owner's alone: barriers are for block_sum.
// `kept` is x with its mean and rstd, or xhat's bytes with 128 and their step.
template <class T, class Kept, int V>
__global__ void layer_norm_backward(const T* grad_out, const Kept* kept, const float* weight, const float* mean,
                                    const float* rstd, const float* step_of, const T* residual, T* grad_x, float* sums,
                                    int64_t rows, int d) {
  SharedMemory shared;
  float* g_row = shared.take<float>(d);
  float* xhat_row = shared.take<float>(d);
  float* grad_weight = shared.take<float>(d);
  float* grad_bias = shared.take<float>(d);
  float* scratch[2] = {shared.take<float>(kWarp), shared.take<float>(kWarp)};
  const int first = static_cast<int>(threadIdx.x) * V, step = static_cast<int>(blockDim.x) * V;
  const Numbers<V> zeros = {};
  for (int column = first; column < d; column += step) {
    store(grad_weight + column, zeros);
    store(grad_bias + column, zeros);
  }
  const int64_t begin = blockIdx.x * kGroupRows, end = begin + kGroupRows < rows ? begin + kGroupRows : rows;
  for (int64_t row = begin; row < end; row++) {
    const float center = mean ? mean[row] : 128.0f, scale = rstd[row], unit = step_of[row];
    float sum_g = 0, sum_gx = 0;
    for (int column = first; column < d; column += step) {
      Numbers<V> gradient = load<V>(grad_out + row * d + column), xhat = load<V>(kept + row * d + column);
      const Numbers<V> w = load<V>(weight + column);
      Numbers<V> for_weight = load<V>(grad_weight + column), for_bias = load<V>(grad_bias + column);
      for (int i = 0; i < V; i++) {
        xhat[i] = (xhat[i] - center) * unit;
        for_weight[i] += gradient[i] * xhat[i];
        for_bias[i] += gradient[i];
        gradient[i] *= w[i];
        sum_g += gradient[i];
        sum_gx += gradient[i] * xhat[i];
      }
      store(grad_weight + column, for_weight);
      store(grad_bias + column, for_bias);
      store(g_row + column, gradient);
      store(xhat_row + column, xhat);
    }
    if (!grad_x) continue;
    // Two places in turn: where one is written again, a barrier has passed since it was read.
    const float mean_g = block_sum(sum_g, scratch[0]) / static_cast<float>(d);
    const float mean_gx = block_sum(sum_gx, scratch[1]) / static_cast<float>(d);
    for (int column = first; column < d; column += step) {
      Numbers<V> gradient = load<V>(g_row + column);
      const Numbers<V> xhat = load<V>(xhat_row + column);
      for (int i = 0; i < V; i++) gradient[i] = scale * (gradient[i] - mean_g - xhat[i] * mean_gx);
      if (residual) {
        const Numbers<V> more = load<V>(residual + row * d + column);
        for (int i = 0; i < V; i++) gradient[i] += more[i];
      }
      store(grad_x + row * d + column, gradient);
    }
  }
  if (!sums) return;
  for (int column = first; column < d; column += step) {
    store(sums + blockIdx.x * 2 * d + column, load<V>(grad_weight + column));
    store(sums + blockIdx.x * 2 * d + d + column, load<V>(grad_bias + column));
  }
}

}  // namespace

void run(Cuda& cuda, const LayerNormForward& k, Workspace) {
  const int64_t rows = k.x.rows();
  const int d = static_cast<int>(k.x.dim(-1));
  // Eight rows a block, fewer where rows are long.
  const int64_t row_bytes = shared_bytes<float>(d), fit = cuda.properties.shared_bytes / row_bytes;
  const bool cached = fit > 0;
  const int warps = static_cast<int>(cached ? std::min<int64_t>(fit, 8) : 8);
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_width(d, [&](auto width) {
      launch(cuda, layer_norm_forward<T, width.value>,
             {blocks_for(cuda.properties, rows, warps), warps * kWarp, cached ? warps * row_bytes : 0}, k.x.as<const T>(),
             k.weight.as<const float>(), k.bias.as<const float>(), k.out.as<T>(), k.mean.as<float>(), k.rstd.as<float>(),
             k.xhat.as<uint8_t>(), k.step.as<float>(), rows, d, k.eps, cached);
    });
  });
}

int64_t workspace(Cuda&, const LayerNormBackward& k) {
  return k.grad_weight || k.grad_bias ? Workspace::aligned<float>(group_count(k.grad_out.rows()) * 2 * k.grad_out.dim(-1)) : 0;
}

void run(Cuda& cuda, const LayerNormBackward& k, Workspace scratch) {
  const int64_t rows = k.grad_out.rows(), groups = group_count(rows);
  const int d = static_cast<int>(k.grad_out.dim(-1));
  float* sums = k.grad_weight || k.grad_bias ? scratch.take<float>(groups * 2 * d) : nullptr;
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_width(d, [&](auto width) {
      const int64_t owners = divide_up(divide_up(d, width.value), kWarp) * kWarp;
      const Grid grid{dim3(static_cast<unsigned>(groups)), static_cast<int>(std::min<int64_t>(owners, 256)),
                      4 * shared_bytes<float>(d) + 2 * shared_bytes<float>(kWarp)};
      const auto from = [&](const auto* kept, const Tensor& step) {
        using Kept = std::remove_const_t<std::remove_pointer_t<decltype(kept)>>;
        launch(cuda, layer_norm_backward<T, Kept, width.value>, grid, k.grad_out.as<const T>(), kept, k.weight.as<const float>(),
               k.mean.as<const float>(), k.rstd.as<const float>(), step.as<const float>(), k.residual.as<const T>(),
               k.grad_x.as<T>(), sums, rows, d);
      };
      k.xhat ? from(k.xhat.as<const uint8_t>(), k.step) : from(k.x.as<const T>(), k.rstd);
    });
  });
  if (k.grad_weight) add_groups(cuda, sums, groups, 2 * d, d, k.grad_weight.as<float>());
  if (k.grad_bias) add_groups(cuda, sums + d, groups, 2 * d, d, k.grad_bias.as<float>());
}

SIDETUNE_CUDA_KERNEL(LayerNormForward)
SIDETUNE_CUDA_KERNEL(LayerNormBackward)

}  // namespace sidetune::cuda
