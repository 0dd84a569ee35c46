#include "../side_inject.h"

#include "each.cuh"
#include "low_rank_rows.cuh"
#include "math.cuh"
#include "patch_grid.cuh"

namespace sidetune::cuda {
namespace {

// out = z + θ(h), or z + g(θ(h)).
template <class T>
struct AddToTokens {
  const T* z;
  T* out;
  template <int V>
  __device__ void put(int64_t number, Numbers<V> result, const Numbers<V>& token) const {
#pragma unroll
    for (int i = 0; i < V; i++) result[i] += token[i];
    store(out + number, result);
  }
  template <int V>
  __device__ void put(const Place& place, const Numbers<V>& result) const {
    put(place.number, result, load<V>(z + place.number));
  }
};

template <int V>
__device__ Numbers<V> theta(Numbers<V> h, float beta) {
#pragma unroll
  for (int i = 0; i < V; i++) h[i] = swish(h[i], beta);
  return h;
}

// gradH = residual + θ'(h) ∘ gradient.
struct ThetaGradient {
  const float* residual;
  float beta;
  float* grad_h;
  template <int V>
  __device__ Numbers<V> before(int64_t number) const {
    return residual ? load<V>(residual + number) : Numbers<V>{};
  }
  template <int V>
  __device__ void put(int64_t number, Numbers<V> gradient, const Numbers<V>& h, const Numbers<V>& before) const {
#pragma unroll
    for (int i = 0; i < V; i++) gradient[i] = fmaf(gradient[i], swish_slope(h[i], beta), before[i]);
    store(grad_h + number, gradient);
  }
};

// Without a kernel, element by element.
template <class T>
struct Inject {
  const float* h;
  float beta;
  AddToTokens<T> sink;
  template <int V>
  __device__ void at(int64_t i) const {
    sink.put(i, theta(load<V>(h + i), beta), load<V>(sink.z + i));
  }
};
template <class T>
struct InjectGradient {
  const T* grad_out;
  const float* h;
  ThetaGradient sink;
  template <int V>
  __device__ void at(int64_t i) const {
    sink.put(i, load<V>(grad_out + i), load<V>(h + i), sink.before<V>(i));
  }
};

// The same where h is a sum of factors, in tiles of rows (low_rank_rows.cuh).
template <class T>
struct InjectRows {
  float beta;
  AddToTokens<T> sink;
  template <int V>
  struct Before {
    Numbers<V> z;
  };
  template <int V>
  __device__ Before<V> read(int64_t place) const {
    return {load<V>(sink.z + place)};
  }
  template <int V>
  __device__ void change(int64_t place, const Before<V>& before, const Numbers<V>& h) const {
    sink.put(place, theta(h, beta), before.z);
  }
};
template <class T>
struct InjectGradientRows {
  const T* grad_out;
  ThetaGradient sink;
  template <int V>
  struct Before {
    Numbers<V> gradient;
  };
  template <int V>
  __device__ Before<V> read(int64_t place) const {
    return {load<V>(grad_out + place)};
  }
  template <int V>
  __device__ void change(int64_t place, const Before<V>& before, const Numbers<V>& h) const {
    sink.put(place, before.gradient, h, Numbers<V>{});
  }
};

// With a kernel: h as it lies in memory, or as it comes of its factors.
struct Stored {
  const float* h;
  template <int V>
  __device__ Numbers<V> at(const Place& place) const {
    return load<V>(h + place.number);
  }
};
struct LowRank {
  int count, r;
  int64_t d;
  const float *u[Pairs::kMost] = {}, *c[Pairs::kMost] = {};

  template <int V>
  __device__ Numbers<V> at(const Place& place) const {
    Numbers<V> total = {};
#pragma unroll 1
    for (int j = 0; j < count; j++) {
      const float *coefficients = u[j] + place.token * r, *factors = c[j] + place.channel;
#pragma unroll 2
      for (int i = 0; i < r; i++, factors += d) {
        const Numbers<V> factor = load<V>(factors);
        const float coefficient = coefficients[i];
#pragma unroll
        for (int n = 0; n < V; n++) total[n] = fmaf(coefficient, factor[n], total[n]);
      }
    }
    return total;
  }
};

// θ(h), which goes into the convolution.
template <class H>
struct Theta {
  static constexpr bool kIsRaw = false;
  H h;
  float beta;
  template <int V>
  __device__ Numbers<V> raw(const Place& place) const {
    return h.template at<V>(place);
  }
  template <int V>
  __device__ Numbers<V> input(const Numbers<V>& numbers) const {
    return theta(numbers, beta);
  }
  template <int V>
  __device__ Numbers<V> at(const Place& place) const {
    return input(raw<V>(place));
  }
};

template <class T>
struct Gradient {
  const T* grad_out;
  template <int V>
  __device__ Numbers<V> at(const Place& place) const {
    return load<V>(grad_out + place.number);
  }
};

// Takes the gradient of θ(h).
template <class H>
struct ThetaSink {
  H h;
  ThetaGradient sink;
  template <int V>
  __device__ void put(const Place& place, const Numbers<V>& gradient, const Numbers<V>& at_place) const {
    sink.put(place.number, gradient, at_place, sink.before<V>(place.number));
  }
  template <int V>
  __device__ void put(const Place& place, const Numbers<V>& gradient) const {
    put(place, gradient, h.template at<V>(place));
  }
};

template <class Arguments>
PatchGrid patch_grid(const Arguments& k, const Tensor& x) {
  const int64_t tokens = k.prefix_tokens + k.grid[0] * k.grid[1];
  return {x.rows() / tokens, k.prefix_tokens, k.grid[0], k.grid[1], x.dim(-1), k.weight.dim(-1)};
}

template <class T, class Arguments>
AddToTokens<T> add_to_tokens(const Arguments& k) {
  return {k.z.template as<const T>(), k.out.template as<T>()};
}
template <class Arguments>
ThetaGradient theta_gradient(const Arguments& k, const float* residual) {
  return {residual, k.beta, k.grad_h.template as<float>()};
}

template <class T, class H, class Arguments>
void convolved(Cuda& cuda, const Arguments& k, const H& h) {
  convolve(cuda, patch_grid(k, k.z), k.weight.template as<const float>(), false, Theta<H>{h, k.beta}, add_to_tokens<T>(k));
}
template <class T, class H, class Arguments>
void convolved_backward(Cuda& cuda, const Arguments& k, const H& h, const float* residual, Workspace scratch) {
  convolve_backward(cuda, patch_grid(k, k.grad_out), k.weight.template as<const float>(), scratch, Theta<H>{h, k.beta},
                    Gradient<T>{k.grad_out.template as<const T>()}, static_cast<bool>(k.grad_h),
                    ThetaSink<H>{h, theta_gradient(k, residual)}, k.grad_weight.template as<float>());
}
template <class Arguments>
int64_t convolution_workspace(const Arguments& k) {
  return k.weight && k.grad_weight ? convolve_backward_workspace(patch_grid(k, k.grad_out)) : 0;
}

// More factors than a launch takes are summed up in scratch memory first: h as it would lie anywhere.
template <class Arguments>
bool fits(const Arguments& k) {
  return k.c.size() <= Pairs::kMost;
}
template <class Arguments>
int64_t factors_workspace(const Arguments& k, const Tensor& x) {
  return row_workspace(x.rows(), most_ranks(k.c), x.dim(-1)) + (fits(k) ? 0 : Workspace::aligned<float>(x.size()));
}
template <class Arguments>
const float* sum_up(Cuda& cuda, const Arguments& k, const Tensor& x, Workspace& scratch) {
  float* h = scratch.take<float>(x.size());
  combine(cuda, k.u, k.c, h, scratch);
  return h;
}
template <class Arguments>
LowRank low_rank(const Arguments& k) {
  LowRank h{static_cast<int>(k.c.size()), static_cast<int>(k.c[0].dim(0)), k.c[0].dim(1)};
  for (int j = 0; j < h.count; j++) h.u[j] = k.u[j].template as<const float>(), h.c[j] = k.c[j].template as<const float>();
  return h;
}

template <class T, class Arguments>
void inject(Cuda& cuda, const Arguments& k, const float* h) {
  if (k.weight) return convolved<T>(cuda, k, Stored{h});
  each(cuda, k.z.size(), Inject<T>{h, k.beta, add_to_tokens<T>(k)});
}
template <class T, class Arguments>
void inject_backward(Cuda& cuda, const Arguments& k, const float* h, const float* residual, Workspace scratch) {
  if (k.weight) return convolved_backward<T>(cuda, k, Stored{h}, residual, scratch);
  if (!k.grad_h) return;
  each(cuda, k.grad_out.size(), InjectGradient<T>{k.grad_out.template as<const T>(), h, theta_gradient(k, residual)});
}

}  // namespace

void run(Cuda& cuda, const SideInjectForward& k, Workspace) {
  dispatch(k.z.dtype, [&](auto type) { inject<typename decltype(type)::type>(cuda, k, k.h.as<const float>()); });
}

int64_t workspace(Cuda&, const SideInjectBackward& k) { return convolution_workspace(k); }

void run(Cuda& cuda, const SideInjectBackward& k, Workspace scratch) {
  dispatch(k.grad_out.dtype, [&](auto type) {
    inject_backward<typename decltype(type)::type>(cuda, k, k.h.as<const float>(), k.residual.as<const float>(), scratch);
  });
}

int64_t workspace(Cuda&, const SideInjectLowRankForward& k) { return factors_workspace(k, k.z); }

void run(Cuda& cuda, const SideInjectLowRankForward& k, Workspace scratch) {
  dispatch(k.z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (!fits(k)) return inject<T>(cuda, k, sum_up(cuda, k, k.z, scratch));
    if (k.weight) return convolved<T>(cuda, k, low_rank(k));
    change_rows(cuda, pairs_from(0, k.u, k.c, {}, {}), k.z.rows(), k.z.dim(-1), InjectRows<T>{k.beta, add_to_tokens<T>(k)},
                scratch);
  });
}

int64_t workspace(Cuda&, const SideInjectLowRankBackward& k) {
  return convolution_workspace(k) + factors_workspace(k, k.grad_out);
}

void run(Cuda& cuda, const SideInjectLowRankBackward& k, Workspace scratch) {
  if (!k.grad_h && !k.grad_weight) return;
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (!fits(k)) {
      const float* h = sum_up(cuda, k, k.grad_out, scratch);
      return inject_backward<T>(cuda, k, h, nullptr, scratch);
    }
    if (k.weight) return convolved_backward<T>(cuda, k, low_rank(k), nullptr, scratch);
    const InjectGradientRows<T> rows{k.grad_out.as<const T>(), theta_gradient(k, nullptr)};
    change_rows(cuda, pairs_from(0, k.u, k.c, {}, {}), k.grad_out.rows(), k.grad_out.dim(-1), rows, scratch);
  });
}

SIDETUNE_CUDA_KERNEL(SideInjectForward)
SIDETUNE_CUDA_KERNEL(SideInjectBackward)
SIDETUNE_CUDA_KERNEL(SideInjectLowRankForward)
SIDETUNE_CUDA_KERNEL(SideInjectLowRankBackward)

}  // namespace sidetune::cuda
