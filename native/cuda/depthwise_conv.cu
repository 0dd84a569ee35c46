#include "../depthwise_conv.h"

#include "patch_grid.cuh"

namespace sidetune::cuda {
namespace {

template <class T>
struct Read {
  static constexpr bool kIsRaw = true;
  const T* data;
  template <int V>
  __device__ Numbers<V> at(const Place& place) const {
    return load<V>(data + place.number);
  }
  template <int V>
  __device__ Numbers<V> raw(const Place& place) const {
    return load<V>(data + place.number);
  }
};

template <class T>
struct Write {
  T* data;
  template <int V>
  __device__ void put(const Place& place, const Numbers<V>& result) const {
    store(data + place.number, result);
  }
  template <int V>
  __device__ void put(const Place& place, const Numbers<V>& result, const Numbers<V>&) const {
    store(data + place.number, result);
  }
};

template <class Arguments>
PatchGrid patch_grid(const Arguments& k, const Tensor& x) {
  return {x.dim(0), k.prefix_tokens, k.grid[0], k.grid[1], x.dim(2), k.weight.dim(-1)};
}

}  // namespace

void run(Cuda& cuda, const DepthwiseConvForward& k, Workspace) {
  dispatch(k.x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    convolve(cuda, patch_grid(k, k.x), k.weight.as<const float>(), false, Read<T>{k.x.as<const T>()}, Write<T>{k.out.as<T>()});
  });
}

int64_t workspace(Cuda&, const DepthwiseConvBackward& k) {
  return k.grad_weight ? convolve_backward_workspace(patch_grid(k, k.grad_out)) : 0;
}

void run(Cuda& cuda, const DepthwiseConvBackward& k, Workspace scratch) {
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    convolve_backward(cuda, patch_grid(k, k.grad_out), k.weight.as<const float>(), scratch, Read<T>{k.x.as<const T>()},
                      Read<T>{k.grad_out.as<const T>()}, static_cast<bool>(k.grad_x), Write<T>{k.grad_x.as<T>()},
                      k.grad_weight.as<float>());
  });
}

SIDETUNE_CUDA_KERNEL(DepthwiseConvForward)
SIDETUNE_CUDA_KERNEL(DepthwiseConvBackward)

}  // namespace sidetune::cuda
