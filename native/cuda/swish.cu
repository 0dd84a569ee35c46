#include "../swish.h"

#include "each.cuh"
#include "math.cuh"

namespace sidetune::cuda {
namespace {

struct Swish {
  float beta;
  __device__ float operator()(float x) const { return swish(x, beta); }
};
struct SwishGradient {
  float beta;
  __device__ float operator()(float gradient, float x) const { return gradient * swish_slope(x, beta); }
};

}  // namespace

void run(Cuda& cuda, const SwishForward& k, Workspace) {
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.x.size(), Map<T, Swish>{k.x.as<const T>(), k.out.as<T>(), {k.beta}});
  });
}

void run(Cuda& cuda, const SwishBackward& k, Workspace) {
  if (!k.grad_x) return;
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    each(cuda, k.x.size(),
         MapGradient<T, SwishGradient>{k.grad_out.as<const T>(), k.x.as<const T>(), k.grad_x.as<T>(), {k.beta}});
  });
}

SIDETUNE_CUDA_KERNEL(SwishForward)
SIDETUNE_CUDA_KERNEL(SwishBackward)

}  // namespace sidetune::cuda
