// Kernels that treat every number alike: a body with
//   template <int V> __device__ void at(int64_t i) const;       // numbers i … i + V − 1
// is called for all of them, eight at a time and the rest one by one. Each number is read and written once, in 16-byte accesses.
#pragma once

#include "launch.cuh"
#include "vector.cuh"

namespace sidetune::cuda {

template <class Body>
__global__ void each_kernel(const Body body, int64_t count) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t vector = thread; vector < count / 8; vector += threads) body.template at<8>(vector * 8);
  for (int64_t i = count / 8 * 8 + thread; i < count; i += threads) body.template at<1>(i);
}

template <class Body>
void each(Cuda& cuda, int64_t count, const Body& body) {
  constexpr int kThreads = 128;
  if (count == 0) return;
  launch(cuda, each_kernel<Body>, {blocks_for(cuda.properties, divide_up(count, 8), kThreads), kThreads}, body, count);
}

// out = x, rounded or widened.
template <class From, class To>
struct Convert {
  const From* x;
  To* out;
  template <int V>
  __device__ void at(int64_t i) const {
    store(out + i, load<V>(x + i));
  }
};

// out = function(x), or out = function(gradOut, x): the shape of activations and their gradients.
template <class T, class Function>
struct Map {
  const T* x;
  T* out;
  Function function;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> numbers = load<V>(x + i);
    for (int n = 0; n < V; n++) numbers[n] = function(numbers[n]);
    store(out + i, numbers);
  }
};
template <class T, class Function>
struct MapGradient {
  const T *grad_out, *x;
  T* grad_x;
  Function function;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> gradient = load<V>(grad_out + i);
    const Numbers<V> numbers = load<V>(x + i);
    for (int n = 0; n < V; n++) gradient[n] = function(gradient[n], numbers[n]);
    store(grad_x + i, gradient);
  }
};

}  // namespace sidetune::cuda
