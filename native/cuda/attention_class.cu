#include <cmath>

#include "../attention.h"

#include "launch.cuh"
#include "shared.cuh"
#include "vector.cuh"
#include "warp.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

struct ClassShape {
  int64_t images, tokens, inputs, heads, width;
  __host__ __device__ int64_t d() const { return heads * width; }
};

// Over the lanes of the warp.
template <class A, class B>
__device__ float dot(const A* a, const B* b, int64_t n) {
  float sum = 0;
  for (int64_t i = lane(); i < n; i += kWarp) sum = fmaf(number(a[i]), number(b[i]), sum);
  return warp_sum(sum);
}

// A warp owns an output of an image: out[b, o] = weight_o · rows[b · image_distance + (o / E) · head_distance] + bias_o.
template <class X, class W, class Out>
__global__ void __launch_bounds__(kThreads) class_outputs(const X* rows, const W* weight, const float* bias, Out* out,
                                                          const ClassShape shape, int64_t image_distance, int64_t head_distance) {
  const int64_t d = shape.d(), units = shape.images * d, step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + warp(); unit < units; unit += step) {
    const int64_t b = unit / d, o = unit - b * d;
    const X* row = rows + b * image_distance + o / shape.width * head_distance;
    const float sum = dot(weight + o * shape.inputs, row, shape.inputs);
    if (lane() == 0) set(out + unit, bias ? sum + bias[o] : sum);
  }
}

// A thread owns a number of g[b, h].
template <class W>
__global__ void __launch_bounds__(kThreads) class_keys(const float* q, const W* weight, float* g, const ClassShape shape) {
  const int64_t I = shape.inputs, units = shape.images * shape.heads * I, step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; unit < units; unit += step) {
    const int64_t head_of_image = unit / I, i = unit - head_of_image * I, h = head_of_image % shape.heads;
    const float* own = q + head_of_image * shape.width;
    const W* w = weight + h * shape.width * I + i;
    float sum = 0;
    for (int64_t e = 0; e < shape.width; e++) sum = fmaf(own[e], number(w[e * I]), sum);
    g[unit] = sum;
  }
}

// A warp owns a score.
template <class T>
__global__ void __launch_bounds__(kThreads)
    class_scores(const T* x, const float* g, float* scores, const ClassShape shape, float scale) {
  const int64_t N = shape.tokens, units = shape.images * shape.heads * N, step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + warp(); unit < units; unit += step) {
    const int64_t head_of_image = unit / N, n = unit - head_of_image * N, b = head_of_image / shape.heads;
    const float sum = dot(x + (b * N + n) * shape.inputs, g + head_of_image * shape.inputs, shape.inputs);
    if (lane() == 0) scores[unit] = scale * sum;
  }
}

// A block owns a head of an image: its scores become p, and m[b, h] = Σ p x.
template <class T>
__global__ void __launch_bounds__(kThreads) class_means(const T* x, float* scores, float* m, const ClassShape shape) {
  SharedMemory shared;
  float *largest = shared.take<float>(kWarp), *sums = shared.take<float>(kWarp);
  const int64_t N = shape.tokens, I = shape.inputs;
  for (int64_t unit = blockIdx.x; unit < shape.images * shape.heads; unit += gridDim.x) {
    float* p = scores + unit * N;
    float most = -INFINITY, total = 0;
    for (int64_t n = threadIdx.x; n < N; n += kThreads) most = fmaxf(most, p[n]);
    most = block_max(most, largest);
    for (int64_t n = threadIdx.x; n < N; n += kThreads) {
      p[n] = expf(p[n] - most);
      total += p[n];
    }
    const float factor = 1.0f / block_sum(total, sums);
    const T* token = x + unit / shape.heads * N * I;
    for (int64_t i = threadIdx.x; i < I; i += kThreads) {
      float sum = 0;
      for (int64_t n = 0; n < N; n++) sum = fmaf(p[n], number(token[n * I + i]), sum);
      m[unit * I + i] = factor * sum;
    }
  }
}

template <class T, class W>
void forward(Cuda& cuda, const ClassAttentionForward& k, Workspace scratch) {
  const int64_t E = k.weight.dim(0) / 3 / k.heads;
  const ClassShape shape{k.x.dim(0), k.x.dim(1), k.x.dim(2), k.heads, E};
  const int64_t B = shape.images, N = shape.tokens, I = shape.inputs, H = shape.heads, d = shape.d();
  const float scale = k.scale != 0 ? k.scale : 1.0f / std::sqrt(static_cast<float>(E));
  auto* q = scratch.take<float>(B * d);
  auto *g = scratch.take<float>(B * H * I), *m = scratch.take<float>(B * H * I);
  auto* scores = scratch.take<float>(B * H * N);
  const T* x = k.x.as<const T>();
  const W* weight = k.weight.as<const W>();
  const float* bias = k.bias.as<const float>();
  const auto grid = [&](int64_t units, int64_t per_block) {
    return Grid{blocks_for(cuda.properties, units, per_block), kThreads};
  };
  launch(cuda, class_outputs<T, W, float>, grid(B * d, kWarps), x, weight, bias, q, shape, N * I, int64_t{0});
  launch(cuda, class_keys<W>, grid(B * H * I, kThreads), q, weight + d * I, g, shape);
  launch(cuda, class_scores<T>, grid(B * H * N, kWarps), x, g, scores, shape, scale);
  launch(cuda, class_means<T>, {blocks_for(cuda.properties, B * H, 1), kThreads, 2 * shared_bytes<float>(kWarp)}, x, scores, m,
         shape);
  launch(cuda, class_outputs<float, W, T>, grid(B * d, kWarps), m, weight + 2 * d * I, bias ? bias + 2 * d : nullptr,
         k.out.as<T>(), shape, H * I, I);
}

}  // namespace

void run(Cuda& cuda, const ClassAttentionForward& k, Workspace scratch) {
  dispatch(k.x.dtype, [&](auto type) {
    dispatch(k.weight.dtype, [&](auto weight_type) {
      forward<typename decltype(type)::type, typename decltype(weight_type)::type>(cuda, k, scratch);
    });
  });
}
int64_t workspace(Cuda&, const ClassAttentionForward& k) {
  const int64_t B = k.x.dim(0), rows = B * k.heads;
  return Workspace::aligned<float>(B * k.weight.dim(0) / 3) + 2 * Workspace::aligned<float>(rows * k.x.dim(2)) +
         Workspace::aligned<float>(rows * k.x.dim(1));
}

SIDETUNE_CUDA_KERNEL(ClassAttentionForward)

}  // namespace sidetune::cuda
