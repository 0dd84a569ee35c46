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

// The same around a change of h by u c, in tiles of rows (low_rank_rows.cuh).
template <class T>
struct Step {
  float* h;
  float beta;
  AddToTokens<T> sink;
  template <int V>
  struct Before {
    Numbers<V> h, z;
  };
  template <int V>
  __device__ Before<V> read(int64_t place) const {
    return {load<V>(h + place), load<V>(sink.z + place)};
  }
  template <int V>
  __device__ void change(int64_t place, const Before<V>& before, Numbers<V> total) const {
#pragma unroll
    for (int n = 0; n < V; n++) total[n] = before.h[n] + total[n];
    store(h + place, total);
    sink.put(place, theta(total, beta), before.z);
  }
};
template <class T>
struct StepGradient {
  const T* grad_out;
  float* h;
  ThetaGradient sink;
  template <int V>
  struct Before {
    Numbers<V> gradient, h, residual;
  };
  template <int V>
  __device__ Before<V> read(int64_t place) const {
    return {load<V>(grad_out + place), load<V>(h + place), sink.template before<V>(place)};
  }
  template <int V>
  __device__ void change(int64_t place, const Before<V>& before, Numbers<V> total) const {
    sink.put(place, before.gradient, before.h, before.residual);
#pragma unroll
    for (int n = 0; n < V; n++) total[n] = before.h[n] - total[n];
    store(h + place, total);
  }
};

// With a kernel: what a step changes h by, if there is a step.
struct Change {
  const float *u = nullptr, *c = nullptr;
  int r = 0;
  int64_t d = 0;

  __device__ bool any() const { return r > 0; }
  template <int V>
  __device__ Numbers<V> at(const Place& place) const {
    Numbers<V> total = {};
    const float *factors = c + place.channel, *coefficients = u + place.token * r;
#pragma unroll 1
    for (int j = 0; j < r; j++, factors += d) {
      const Numbers<V> factor = load<V>(factors);
      const float coefficient = coefficients[j];
#pragma unroll
      for (int n = 0; n < V; n++) total[n] = fmaf(coefficient, factor[n], total[n]);
    }
    return total;
  }
};

// θ(h), which goes into the convolution; h has changed then.
struct Theta {
  static constexpr bool kIsRaw = false;
  float* h;
  float beta;
  Change change;
  template <int V>
  __device__ Numbers<V> raw(const Place& place) const {
    Numbers<V> numbers = load<V>(h + place.number);
    if (!change.any()) return numbers;
    const Numbers<V> total = change.at<V>(place);
#pragma unroll
    for (int n = 0; n < V; n++) numbers[n] = numbers[n] + total[n];
    store(h + place.number, numbers);
    return numbers;
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

// Takes the gradient of θ(h), and walks h back.
struct ThetaSink {
  float* h;
  ThetaGradient sink;
  Change change;
  template <int V>
  __device__ void put(const Place& place, const Numbers<V>& gradient, Numbers<V> at_place) const {
    sink.put(place.number, gradient, at_place, sink.before<V>(place.number));
    if (!change.any()) return;
    const Numbers<V> total = change.at<V>(place);
#pragma unroll
    for (int n = 0; n < V; n++) at_place[n] = at_place[n] - total[n];
    store(h + place.number, at_place);
  }
  template <int V>
  __device__ void put(const Place& place, const Numbers<V>& gradient) const {
    put(place, gradient, load<V>(h + place.number));
  }
};

template <class Arguments>
PatchGrid patch_grid(const Arguments& k) {
  const int64_t tokens = k.prefix_tokens + k.grid[0] * k.grid[1];
  return {k.h.rows() / tokens, k.prefix_tokens, k.grid[0], k.grid[1], k.h.dim(-1), k.weight.dim(-1)};
}
template <class Arguments>
Change change_of(const Arguments& k) {
  return {k.u.template as<const float>(), k.c.template as<const float>(), static_cast<int>(k.c.dim(0)), k.c.dim(1)};
}
template <class Arguments>
RowArguments rows_of(const Arguments& k) {
  RowArguments rows{pair(k.u, k.c.dim(0), k.c, {}), k.h.rows(), k.h.dim(-1)};
  rows.changes = true;
  return rows;
}

template <class T, class Arguments>
void convolved(Cuda& cuda, const Arguments& k, const Change& change) {
  float* h = k.h.template as<float>();
  convolve(cuda, patch_grid(k), k.weight.template as<const float>(), false, Theta{h, k.beta, change},
           AddToTokens<T>{k.z.template as<const T>(), k.out.template as<T>()});
}

template <class Arguments>
ThetaGradient theta_gradient(const Arguments& k) {
  return {k.residual.template as<const float>(), k.beta, k.grad_h.template as<float>()};
}
template <class T, class Arguments>
void convolved_backward(Cuda& cuda, const Arguments& k, const Change& change, Workspace scratch) {
  float* h = k.h.template as<float>();
  convolve_backward(cuda, patch_grid(k), k.weight.template as<const float>(), scratch, Theta{h, k.beta, {}},
                    Gradient<T>{k.grad_out.template as<const T>()}, static_cast<bool>(k.grad_h),
                    ThetaSink{h, theta_gradient(k), change}, k.grad_weight.template as<float>());
}
template <class Arguments>
int64_t convolution_workspace(const Arguments& k) {
  return k.weight && k.grad_weight ? convolve_backward_workspace(patch_grid(k)) : 0;
}

// Whether a step can change h in the pass of its convolution.
bool in_one_pass(const Cuda& cuda, const SideStepForward& k) { return reads_once(cuda.properties, patch_grid(k), false); }
bool in_one_pass(const Cuda& cuda, const SideStepBackward& k) {
  return !k.grad_weight || reads_once(cuda.properties, patch_grid(k), true);
}

}  // namespace

void run(Cuda& cuda, const SideInjectForward& k, Workspace) {
  dispatch(k.z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (k.weight) return convolved<T>(cuda, k, {});
    each(cuda, k.h.size(), Inject<T>{k.h.as<const float>(), k.beta, {k.z.as<const T>(), k.out.as<T>()}});
  });
}

int64_t workspace(Cuda&, const SideInjectBackward& k) { return convolution_workspace(k); }

void run(Cuda& cuda, const SideInjectBackward& k, Workspace scratch) {
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (k.weight) return convolved_backward<T>(cuda, k, {}, scratch);
    if (k.grad_h) each(cuda, k.h.size(), InjectGradient<T>{k.grad_out.as<const T>(), k.h.as<const float>(), theta_gradient(k)});
  });
}

int64_t workspace(Cuda&, const SideStepForward& k) { return row_workspace(k.h.rows(), k.c.dim(0), k.h.dim(-1)); }

void run(Cuda& cuda, const SideStepForward& k, Workspace scratch) {
  dispatch(k.z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (!k.weight) {
      const Step<T> step{k.h.as<float>(), k.beta, {k.z.as<const T>(), k.out.as<T>()}};
      pass_rows<float>(cuda, nullptr, rows_of(k), step, scratch);
    } else if (in_one_pass(cuda, k)) {
      convolved<T>(cuda, k, change_of(k));
    } else {
      pass_rows<float>(cuda, nullptr, rows_of(k), HChange{HChange::add, k.h.as<float>()}, scratch);
      convolved<T>(cuda, k, {});
    }
  });
}

int64_t workspace(Cuda&, const SideStepBackward& k) {
  return convolution_workspace(k) + row_workspace(k.h.rows(), k.c.dim(0), k.h.dim(-1));
}

void run(Cuda& cuda, const SideStepBackward& k, Workspace scratch) {
  dispatch(k.grad_out.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (!k.weight) {
      const StepGradient<T> step{k.grad_out.as<const T>(), k.h.as<float>(), theta_gradient(k)};
      pass_rows<float>(cuda, nullptr, rows_of(k), step, scratch);
    } else if (in_one_pass(cuda, k)) {
      convolved_backward<T>(cuda, k, change_of(k), scratch);
    } else {
      convolved_backward<T>(cuda, k, {}, scratch);
      pass_rows<float>(cuda, nullptr, rows_of(k), HChange{HChange::subtract, k.h.as<float>()}, scratch);
    }
  });
}

SIDETUNE_CUDA_KERNEL(SideInjectForward)
SIDETUNE_CUDA_KERNEL(SideInjectBackward)
SIDETUNE_CUDA_KERNEL(SideStepForward)
SIDETUNE_CUDA_KERNEL(SideStepBackward)

}  // namespace sidetune::cuda
