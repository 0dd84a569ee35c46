#include "../layer_norm.h"

#include "low_rank.cuh"
#include "reduce.cuh"
#include "shared.cuh"
#include "vector.cuh"
#include "warp.cuh"

namespace sidetune::cuda {
namespace {

struct NormArguments {
  const float *weight = nullptr, *bias = nullptr;
  float *mean = nullptr, *rstd = nullptr;
  int64_t rows = 0;
  int d = 0;
  float eps = 0;
  uint8_t* bytes = nullptr;  // xhat's, with their step
  float* step = nullptr;
  bool cached = false;
};

// What a side layer reads of the rows, u = x a, `ranks` products at a time.
struct Projection {
  const float* a = nullptr;
  int64_t r = 0, padded = 0;
  const float* factors = nullptr;  // a laid out as [padded, d]; null: in shared memory
  float* u = nullptr;
};

template <int V, int kRanks>
__device__ void add_products(const Numbers<V>& numbers, const float* factors, int d, float (&products)[kRanks]) {
#pragma unroll
  for (int j = 0; j < kRanks; j++) {
    const Numbers<V> factor = load<V>(factors + j * d);
#pragma unroll
    for (int i = 0; i < V; i++) products[j] = fmaf(numbers[i], factor[i], products[j]);
  }
}
template <int kRanks>
__device__ void put_products(float (&products)[kRanks], const Projection& read, int64_t row, int64_t first) {
#pragma unroll
  for (int j = 0; j < kRanks; j++) {
    const float total = warp_sum(products[j]);
    if (lane() == j && first + j < read.r) read.u[row * read.r + first + j] = total;
    products[j] = 0;
  }
}

// A warp owns a row. The row is read once from memory: `cache` (d floats a warp of shared memory; null where a row is too long)
// serves the other looks at it. A lane reads back what it wrote itself, so no barrier is needed. With kRanks of 0 nobody else
// reads.
template <class T, int V, int kRanks>
__global__ void layer_norm_forward(const T* x, T* out, const NormArguments k, const Projection read) {
  SharedMemory shared;
  const int warps = static_cast<int>(blockDim.x) / kWarp, d = k.d;
  float* cache = k.cached ? shared.take<float>(static_cast<int64_t>(warps) * d) + warp() * d : nullptr;
  const float* factors = read.factors;
  if constexpr (kRanks > 0) {
    if (!factors) {
      float* own = shared.take<float>(read.padded * d);
      take_projection(read.a, read.r, d, read.padded, threadIdx.x, blockDim.x, own);
      factors = own;
      __syncthreads();
    }
  }
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp(); row < k.rows;
       row += static_cast<int64_t>(gridDim.x) * warps) {
    const T* from = x + row * d;
    const auto at = [&](int column) { return cache ? load<V>(cache + column) : load<V>(from + column); };
    float sum = 0, products[kRanks ? kRanks : 1] = {};
    for (int column = lane() * V; column < d; column += kWarp * V) {
      const Numbers<V> numbers = load<V>(from + column);
      for (int i = 0; i < V; i++) sum += numbers[i];
      if constexpr (kRanks > 0) add_products(numbers, factors + column, d, products);
      if (cache) store(cache + column, numbers);
    }
    if constexpr (kRanks > 0) {
      put_products(products, read, row, 0);
      for (int64_t first = kRanks; first < read.r; first += kRanks) {
        for (int column = lane() * V; column < d; column += kWarp * V)
          add_products(at(column), factors + first * d + column, d, products);
        put_products(products, read, row, first);
      }
    }
    const float center = warp_sum(sum) / static_cast<float>(d);
    float squares = 0;
    for (int column = lane() * V; column < d; column += kWarp * V) {
      const Numbers<V> numbers = at(column);
      for (int i = 0; i < V; i++) squares += (numbers[i] - center) * (numbers[i] - center);
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + k.eps);
    for (int column = lane() * V; column < d; column += kWarp * V) {
      Numbers<V> numbers = at(column);
      const Numbers<V> w = load<V>(k.weight + column), b = load<V>(k.bias + column);
      for (int i = 0; i < V; i++) numbers[i] = (numbers[i] - center) * scale * w[i] + b[i];
      store(out + row * d + column, numbers);
    }
    if (lane() == 0) {
      if (k.mean) k.mean[row] = center;
      if (k.rstd) k.rstd[row] = scale;
    }
    if (!k.bytes) continue;
    float largest = 0;
    for (int column = lane() * V; column < d; column += kWarp * V) {
      const Numbers<V> numbers = at(column);
      for (int i = 0; i < V; i++) largest = fmaxf(largest, fabsf((numbers[i] - center) * scale));
    }
    const float size = warp_max(largest) / 127, per_step = size > 0 ? 1 / size : 0;
    for (int column = lane() * V; column < d; column += kWarp * V) {
      Numbers<V> numbers = at(column);
      for (int i = 0; i < V; i++) numbers[i] = rintf(fmaf((numbers[i] - center) * scale, per_step, 128.0f));
      store(k.bytes + row * d + column, numbers);
    }
    if (lane() == 0) k.step[row] = size;
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

template <class Arguments>
NormArguments arguments_of(const Arguments& k) {
  NormArguments arguments;
  arguments.weight = k.weight.template as<const float>(), arguments.bias = k.bias.template as<const float>();
  arguments.mean = k.mean.template as<float>(), arguments.rstd = k.rstd.template as<float>();
  arguments.rows = k.x.rows(), arguments.d = static_cast<int>(k.x.dim(-1)), arguments.eps = k.eps;
  return arguments;
}

// Eight rows a block, fewer where rows are long. Returns what the rows' cache takes.
int64_t plan_cache(int64_t most, NormArguments& arguments, int& warps) {
  const int64_t row_bytes = shared_bytes<float>(arguments.d), fit = most / row_bytes;
  arguments.cached = fit > 0;
  warps = static_cast<int>(fit > 0 ? std::min<int64_t>(fit, 8) : 8);
  return arguments.cached ? warps * row_bytes : 0;
}

}  // namespace

void run(Cuda& cuda, const LayerNormForward& k, Workspace) {
  NormArguments arguments = arguments_of(k);
  arguments.bytes = k.xhat.as<uint8_t>(), arguments.step = k.step.as<float>();
  int warps = 0;
  const int64_t bytes = plan_cache(cuda.properties.shared_bytes, arguments, warps);
  const Grid grid{blocks_for(cuda.properties, arguments.rows, warps), warps * kWarp, bytes};
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_width(arguments.d, [&](auto width) {
      launch(cuda, layer_norm_forward<T, width.value, 0>, grid, k.x.as<const T>(), k.out.as<T>(), arguments, Projection());
    });
  });
}

constexpr int64_t kMostAtOnce = 8;
int64_t workspace(Cuda&, const LayerNormProjectForward& k) {
  return Workspace::aligned<float>(round_up(k.a.dim(1), kMostAtOnce) * k.a.dim(0));
}

void run(Cuda& cuda, const LayerNormProjectForward& k, Workspace scratch) {
  NormArguments arguments = arguments_of(k);
  const int64_t r = k.a.dim(1), d = arguments.d;
  if (arguments.rows == 0) return;
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_width(d, [&](auto width) {
      const auto run_with = [&](auto ranks) {
        Projection read{k.a.as<const float>(), r, round_up(r, ranks.value), nullptr, k.u.as<float>()};
        int warps = 0;
        int64_t bytes = plan_cache(cuda.properties.shared_bytes, arguments, warps);
        const int64_t factor_bytes = shared_bytes<float>(read.padded * d);
        if (bytes + factor_bytes <= cuda.properties.most_shared_bytes) {
          bytes += factor_bytes;
        } else {
          float* factors = scratch.take<float>(read.padded * d);
          lay_out_factors(cuda, read.a, pair({}, r, {}, {}), d, read.padded, false, factors);
          read.factors = factors;
        }
        // Few blocks, each of which lays out the factors for many rows.
        const Grid grid{blocks_for(cuda.properties, arguments.rows, warps, 4), warps * kWarp, bytes};
        launch(cuda, layer_norm_forward<T, width.value, ranks.value>, grid, k.x.as<const T>(), k.out.as<T>(), arguments, read);
      };
      r <= 2 ? run_with(Width<2>{}) : run_with(Width<kMostAtOnce>{});
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
SIDETUNE_CUDA_KERNEL(LayerNormProjectForward)
SIDETUNE_CUDA_KERNEL(LayerNormBackward)

}  // namespace sidetune::cuda
