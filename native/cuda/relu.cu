#include "../relu.h"

#include "each.cuh"

namespace sidetune::cuda {
namespace {

struct Relu {
  __device__ float operator()(float x) const { return x <= 0.0f ? 0.0f : x; }
};
struct ReluGradient {
  __device__ float operator()(float gradient, float out) const { return out <= 0.0f ? 0.0f : gradient; }
};

}  // namespace

void run(Cuda& cuda, const ReluForward& k, Workspace) {
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.x.size(), Map<T, Relu>{k.x.as<const T>(), k.out.as<T>(), {}});
  });
}

void run(Cuda& cuda, const ReluBackward& k, Workspace) {
  if (!k.grad_x) return;
  dispatch(k.out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.out.size(), MapGradient<T, ReluGradient>{k.grad_out.as<const T>(), k.out.as<const T>(), k.grad_x.as<T>(), {}});
  });
}

SIDETUNE_CUDA_KERNEL(ReluForward)
SIDETUNE_CUDA_KERNEL(ReluBackward)

}  // namespace sidetune::cuda
