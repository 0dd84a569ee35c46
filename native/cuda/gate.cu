#include "../gate.h"

#include "each.cuh"
#include "shared.cuh"
#include "warp.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kGroup = GateBackward::kGroup;

// mu, 1 − mu and dmu/dalpha. An exponential that overflows gives 0.
struct Gate {
  float mu, rest, slope;
  __device__ Gate(float alpha, float temperature) {
    const float t = alpha / temperature;
    mu = 1.0f / (1.0f + expf(-t)), rest = 1.0f / (1.0f + expf(t));
    slope = mu * rest / temperature;
  }
};

template <class T>
struct Mix {
  const T *a, *b;
  const float* alpha;
  float temperature;
  T* out;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> numbers = load<V>(a + i);
    const Numbers<V> others = load<V>(b + i);
    const Gate gate(*alpha, temperature);
    for (int n = 0; n < V; n++) numbers[n] = fmaf(gate.mu, numbers[n], gate.rest * others[n]);
    store(out + i, numbers);
  }
};

// Null pointers stand for what is not wanted; `sums` decides whether a and b are read.
template <class T>
struct Gradients {
  const T *grad_out, *a, *b;
  const float* alpha;
  float temperature;
  T *grad_a = nullptr, *grad_b = nullptr;
  float* sums = nullptr;
  int64_t size = 0;

  // Writes V gradients; returns Σ gradOut ∘ (a − b) of them.
  template <int V>
  __device__ float at(int64_t i, const Gate& gate) const {
    const Numbers<V> gradient = load<V>(grad_out + i);
    Numbers<V> scaled;
    float sum = 0;
    if (sums) {
      const Numbers<V> numbers = load<V>(a + i), others = load<V>(b + i);
      for (int n = 0; n < V; n++) sum = fmaf(gradient[n], numbers[n] - others[n], sum);
    }
    if (grad_a) {
      for (int n = 0; n < V; n++) scaled[n] = gate.mu * gradient[n];
      store(grad_a + i, scaled);
    }
    if (grad_b) {
      for (int n = 0; n < V; n++) scaled[n] = gate.rest * gradient[n];
      store(grad_b + i, scaled);
    }
    return sum;
  }
};

// A block owns a group, a thread every kThreads-th eight numbers of it.
template <class T>
__global__ void gate_backward(const Gradients<T> k) {
  SharedMemory shared;
  float* partial = shared.take<float>(kWarp);
  const Gate gate(*k.alpha, k.temperature);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kGroup, end = begin + kGroup < k.size ? begin + kGroup : k.size;
  const int64_t whole = begin + (end - begin) / 8 * 8;
  float sum = 0;
  for (int64_t i = begin + static_cast<int64_t>(threadIdx.x) * 8; i < whole; i += kThreads * 8) sum += k.template at<8>(i, gate);
  const int64_t rest = whole + static_cast<int64_t>(threadIdx.x);
  if (rest < end) sum += k.template at<1>(rest, gate);
  if (!k.sums) return;
  sum = block_sum(sum, partial);
  if (threadIdx.x == 0) k.sums[blockIdx.x] = sum;
}

// gradAlpha takes the groups' sums: one block, a thread adds up every kThreads-th group.
__global__ void gate_alpha(const float* sums, int64_t groups, const float* alpha, float temperature, float* grad_alpha) {
  SharedMemory shared;
  float* partial = shared.take<float>(kWarp);
  float sum = 0;
  for (int64_t group = static_cast<int64_t>(threadIdx.x); group < groups; group += kThreads) sum += sums[group];
  sum = block_sum(sum, partial);
  if (threadIdx.x == 0) *grad_alpha += Gate(*alpha, temperature).slope * sum;
}

}  // namespace

void run(Cuda& cuda, const GateForward& k, Workspace) {
  dispatch(k.a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.a.size(), Mix<T>{k.a.as<const T>(), k.b.as<const T>(), k.alpha.as<const float>(), k.temperature, k.out.as<T>()});
  });
}

int64_t workspace(Cuda&, const GateBackward& k) { return k.grad_alpha ? Workspace::aligned<float>(k.groups()) : 0; }

void run(Cuda& cuda, const GateBackward& k, Workspace scratch) {
  if (!k.grad_a && !k.grad_b && !k.grad_alpha) return;
  const int64_t size = k.grad_out.size(), groups = k.groups();
  const float* alpha = k.alpha.as<const float>();
  float* sums = k.grad_alpha ? scratch.take<float>(groups) : nullptr;
  const int64_t shared = shared_bytes<float>(kWarp);
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    Gradients<T> gradients{k.grad_out.as<const T>(), k.a.as<const T>(), k.b.as<const T>(), alpha, k.temperature};
    gradients.grad_a = k.grad_a.as<T>(), gradients.grad_b = k.grad_b.as<T>(), gradients.sums = sums, gradients.size = size;
    launch(cuda, gate_backward<T>, {dim3(static_cast<unsigned>(groups)), kThreads, shared}, gradients);
  });
  if (sums) launch(cuda, gate_alpha, {dim3(1), kThreads, shared}, sums, groups, alpha, k.temperature, k.grad_alpha.as<float>());
}

SIDETUNE_CUDA_KERNEL(GateForward)
SIDETUNE_CUDA_KERNEL(GateBackward)

}  // namespace sidetune::cuda
