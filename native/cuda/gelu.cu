#include "../gelu.h"

#include "each.cuh"
#include "math.cuh"

namespace sidetune::cuda {
namespace {

struct Gelu {
  __device__ float operator()(float x) const { return gelu(x); }
};
struct GeluGradient {
  __device__ float operator()(float gradient, float x) const { return gradient * gelu_derivative(x); }
};

}  // namespace

void run(Cuda& cuda, const GeluForward& k, Workspace) {
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.x.size(), Map<T, Gelu>{k.x.as<const T>(), k.out.as<T>(), {}});
  });
}

void run(Cuda& cuda, const GeluBackward& k, Workspace) {
  if (!k.grad_x) return;
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.x.size(), MapGradient<T, GeluGradient>{k.grad_out.as<const T>(), k.x.as<const T>(), k.grad_x.as<T>(), {}});
  });
}

SIDETUNE_CUDA_KERNEL(GeluForward)
SIDETUNE_CUDA_KERNEL(GeluBackward)

}  // namespace sidetune::cuda
