#include "../side_inject.h"

#include "each.cuh"
#include "math.cuh"
#include "patch_grid.cuh"

namespace sidetune::cuda {
namespace {

// θ(h), which goes into the convolution.
struct Theta {
  static constexpr bool kIsRaw = false;
  const float* h;
  float beta;
  template <int V>
  __device__ Numbers<V> raw(int64_t place) const {
    return load<V>(h + place);
  }
  template <int V>
  __device__ Numbers<V> input(Numbers<V> numbers) const {
    for (int i = 0; i < V; i++) numbers[i] = swish(numbers[i], beta);
    return numbers;
  }
  template <int V>
  __device__ Numbers<V> at(int64_t place) const {
    return input(raw<V>(place));
  }
};

// out = z + θ(h) or z + g(θ(h)).
template <class T>
struct AddToTokens {
  const T* z;
  T* out;
  template <int V>
  __device__ void put(int64_t place, Numbers<V> result) const {
    const Numbers<V> token = load<V>(z + place);
    for (int i = 0; i < V; i++) result[i] += token[i];
    store(out + place, result);
  }
};

template <class T>
struct Gradient {
  const T* grad_out;
  template <int V>
  __device__ Numbers<V> at(int64_t place) const {
    return load<V>(grad_out + place);
  }
};

// gradH = residual + θ'(h) ∘ gradient.
struct ThetaGradient {
  const float *h, *residual;
  float beta;
  float* grad_h;
  template <int V>
  __device__ void put(int64_t place, Numbers<V> gradient, const Numbers<V>& at_place) const {
    for (int i = 0; i < V; i++) gradient[i] *= swish_slope(at_place[i], beta);
    if (residual) {
      const Numbers<V> more = load<V>(residual + place);
      for (int i = 0; i < V; i++) gradient[i] += more[i];
    }
    store(grad_h + place, gradient);
  }
  template <int V>
  __device__ void put(int64_t place, const Numbers<V>& gradient) const {
    put(place, gradient, load<V>(h + place));
  }
};

// Without a kernel: source to sink, element by element.
template <class Source, class Sink>
struct Pass {
  Source source;
  Sink sink;
  template <int V>
  __device__ void at(int64_t i) const {
    sink.put(i, source.template at<V>(i));
  }
};
template <class Source, class Sink>
void pass(Cuda& cuda, int64_t count, const Source& source, const Sink& sink) {
  each(cuda, count, Pass<Source, Sink>{source, sink});
}

template <class Arguments>
PatchGrid patch_grid(const Arguments& k) {
  const int64_t tokens = k.prefix_tokens + k.grid[0] * k.grid[1];
  return {k.h.rows() / tokens, k.prefix_tokens, k.grid[0], k.grid[1], k.h.dim(-1), k.weight.dim(-1)};
}

}  // namespace

void run(Cuda& cuda, const SideInjectForward& k, Workspace) {
  dispatch(k.z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Theta theta{k.h.as<const float>(), k.beta};
    const AddToTokens<T> tokens{k.z.as<const T>(), k.out.as<T>()};
    k.weight ? convolve(cuda, patch_grid(k), k.weight.as<const float>(), false, theta, tokens)
             : pass(cuda, k.h.size(), theta, tokens);
  });
}

int64_t workspace(Cuda&, const SideInjectBackward& k) {
  return k.weight && k.grad_weight ? convolve_backward_workspace(patch_grid(k)) : 0;
}

void run(Cuda& cuda, const SideInjectBackward& k, Workspace scratch) {
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const Theta theta{k.h.as<const float>(), k.beta};
    const Gradient<T> gradient{k.grad_out.as<const T>()};
    const ThetaGradient sink{k.h.as<const float>(), k.residual.as<const float>(), k.beta, k.grad_h.as<float>()};
    if (k.weight) {
      convolve_backward(cuda, patch_grid(k), k.weight.as<const float>(), scratch, theta, gradient, static_cast<bool>(k.grad_h),
                        sink, k.grad_weight.as<float>());
    } else if (k.grad_h) {
      pass(cuda, k.h.size(), gradient, sink);
    }
  });
}

SIDETUNE_CUDA_KERNEL(SideInjectForward)
SIDETUNE_CUDA_KERNEL(SideInjectBackward)

}  // namespace sidetune::cuda
