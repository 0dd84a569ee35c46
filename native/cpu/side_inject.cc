#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/side_inject.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "low_rank-inl.h"
#include "math-inl.h"
#include "patch_grid-inl.h"
// clang-format on

#include "../side_inject.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 4096;  // numbers that are worth a thread

// DTL: element by element.
template <class T>
void inject(const Cpu& cpu, const SideInjectForward& k) {
  const V beta = hn::Set(F(), k.beta);
  parallel_ranges(cpu, k.h.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const float* h = k.h.as<float>() + begin;
    const T* z = k.z.as<T>() + begin;
    T* out = k.out.as<T>() + begin;
    for_each_vector(end - begin, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(z), swish(at(h), beta)), out); });
  });
}

template <class T>
void inject_backward(const Cpu& cpu, const SideInjectBackward& k) {
  const V beta = hn::Set(F(), k.beta);
  parallel_ranges(cpu, k.h.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const T* grad_out = k.grad_out.as<T>() + begin;
    const float *h = k.h.as<float>() + begin, *residual = k.residual ? k.residual.as<float>() + begin : nullptr;
    float* grad_h = k.grad_h.as<float>() + begin;
    for_each_vector(end - begin, [&](size_t, auto at, auto put) HWY_ATTR {
      const V slope = swish_slope(at(h), beta);
      put(residual ? hn::MulAdd(slope, at(grad_out), at(residual)) : hn::Mul(slope, at(grad_out)), grad_h);
    });
  });
}

// The same around a change of h by u c, in tiles of rows.
template <class T>
void step(const Cpu& cpu, const SideStepForward& k) {
  const int64_t d = k.c.dim(1), r = k.c.dim(0);
  const V beta = hn::Set(F(), k.beta);
  parallel_ranges(cpu, k.h.rows(), 8, [&](int64_t begin, int64_t end) HWY_ATTR {
    for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
      float* h = k.h.as<float>() + row * d;
      const T* z = k.z.as<T>() + row * d;
      T* out = k.out.as<T>() + row * d;
      combine_factors<decltype(tile)::value>(k.u.as<float>() + row * r, k.c.as<float>(), r, d,
                                             [&](int i, V change, auto at, auto put) HWY_ATTR {
                                               const V next = hn::Add(at(h + i * d), change);
                                               put(next, h + i * d);
                                               put(hn::Add(at(z + i * d), swish(next, beta)), out + i * d);
                                             });
    });
  });
}

template <class T>
void step_backward(const Cpu& cpu, const SideStepBackward& k) {
  const int64_t d = k.c.dim(1), r = k.c.dim(0);
  const V beta = hn::Set(F(), k.beta);
  parallel_ranges(cpu, k.h.rows(), 8, [&](int64_t begin, int64_t end) HWY_ATTR {
    for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
      float *h = k.h.as<float>() + row * d, *grad_h = k.grad_h.as<float>() + row * d;
      const float* residual = k.residual ? k.residual.as<float>() + row * d : nullptr;
      const T* grad_out = k.grad_out.as<T>() + row * d;
      combine_factors<decltype(tile)::value>(
          k.u.as<float>() + row * r, k.c.as<float>(), r, d, [&](int i, V change, auto at, auto put) HWY_ATTR {
            const V after = at(h + i * d), slope = swish_slope(after, beta), gradient = at(grad_out + i * d);
            put(residual ? hn::MulAdd(slope, gradient, at(residual + i * d)) : hn::Mul(slope, gradient), grad_h + i * d);
            put(hn::Sub(after, change), h + i * d);
          });
    });
  });
}

// What a step changes h by. Without one nothing is added.
struct NoChange {
  HWY_INLINE V after(const float* h, Place place, size_t left) const { return load_upto(h + place.number, left); }
  HWY_INLINE void undo(V, const float*, Place, size_t) const {}
};
struct Change {
  const float *u, *c;
  int64_t r, d;

  template <class Arguments>
  explicit Change(const Arguments& k) : u(k.u.template as<float>()), c(k.c.template as<float>()), r(k.c.dim(0)), d(k.c.dim(1)) {}

  HWY_INLINE V at(Place place, size_t left) const {
    V total = hn::Zero(F());
    for (int64_t j = 0; j < r; j++)
      total = hn::MulAdd(hn::Set(F(), u[place.token * r + j]), load_upto(c + j * d + place.channel, left), total);
    return total;
  }
  HWY_INLINE V after(float* h, Place place, size_t left) const {
    const V next = hn::Add(load_upto(h + place.number, left), at(place, left));
    store_upto(next, h + place.number, left);
    return next;
  }
  HWY_INLINE void undo(V after, float* h, Place place, size_t left) const {
    store_upto(hn::Sub(after, at(place, left)), h + place.number, left);
  }
};

// DTL+: θ(h), after the change, is the convolution's source, the residual add its sink.
template <class H, class C>
struct Theta {
  H* h;
  float beta;
  C change;
  HWY_INLINE V operator()(Place place, size_t left) const { return swish(change.after(h, place, left), hn::Set(F(), beta)); }
  HWY_INLINE void prefetch(int64_t number, int64_t count) const { HWY_NAMESPACE::prefetch(h + number, count); }
};

template <class T>
struct AddToTokens {
  const T* z;
  T* out;
  HWY_INLINE void operator()(Place place, size_t left, V result) const {
    store_upto(hn::Add(load_upto(z + place.number, left), result), out + place.number, left);
  }
  HWY_INLINE void prefetch(int64_t number, int64_t count) const {
    HWY_NAMESPACE::prefetch(z + number, count);
    HWY_NAMESPACE::prefetch(out + number, count);
  }
};

template <class H, class C>
struct ThetaGradient {
  H* h;
  const float* residual;
  float beta;
  float* grad_h;
  C change;
  HWY_INLINE void operator()(Place place, size_t left, V gradient) const {
    const V after = load_upto(h + place.number, left), slope = swish_slope(after, hn::Set(F(), beta));
    store_upto(residual ? hn::MulAdd(slope, gradient, load_upto(residual + place.number, left)) : hn::Mul(slope, gradient),
               grad_h + place.number, left);
    change.undo(after, h, place, left);
  }
  HWY_INLINE void prefetch(int64_t number, int64_t count) const {
    HWY_NAMESPACE::prefetch(h + number, count);
    if (residual) HWY_NAMESPACE::prefetch(residual + number, count);
    HWY_NAMESPACE::prefetch(grad_h + number, count);
  }
};

template <class T, class H, class C, class Arguments>
void convolved(const Cpu& cpu, const Arguments& k, H* h, const C& change, const PatchGrid& grid, Workspace scratch) {
  convolve(cpu, grid, k.weight.template as<float>(), scratch, Theta<H, C>{h, k.beta, change},
           AddToTokens<T>{k.z.template as<T>(), k.out.template as<T>()});
}

template <class T, class H, class C, class Arguments>
void convolved_backward(const Cpu& cpu, const Arguments& k, H* h, const C& change, const PatchGrid& grid, Workspace scratch) {
  if (!k.grad_h && !k.grad_weight) return;
  convolve_backward(cpu, grid, k.weight.template as<float>(), scratch, Theta<const float, NoChange>{h, k.beta, {}},
                    Numbers<T>{k.grad_out.template as<T>()}, static_cast<bool>(k.grad_h),
                    ThetaGradient<H, C>{h, k.residual.template as<float>(), k.beta, k.grad_h.template as<float>(), change},
                    k.grad_weight.template as<float>());
}

template <class T>
void forward(const Cpu& cpu, const SideInjectForward& k, const PatchGrid& grid, Workspace scratch) {
  k.weight ? convolved<T>(cpu, k, k.h.as<const float>(), NoChange(), grid, scratch) : inject<T>(cpu, k);
}
template <class T>
void forward(const Cpu& cpu, const SideStepForward& k, const PatchGrid& grid, Workspace scratch) {
  k.weight ? convolved<T>(cpu, k, k.h.as<float>(), Change(k), grid, scratch) : step<T>(cpu, k);
}
template <class T>
void backward(const Cpu& cpu, const SideInjectBackward& k, const PatchGrid& grid, Workspace scratch) {
  if (k.weight) return convolved_backward<T>(cpu, k, k.h.as<const float>(), NoChange(), grid, scratch);
  if (k.grad_h) inject_backward<T>(cpu, k);
}
template <class T>
void backward(const Cpu& cpu, const SideStepBackward& k, const PatchGrid& grid, Workspace scratch) {
  k.weight ? convolved_backward<T>(cpu, k, k.h.as<float>(), Change(k), grid, scratch) : step_backward<T>(cpu, k);
}

void side_inject_forward(const Cpu& cpu, const SideInjectForward& k, const PatchGrid& grid, Workspace scratch) {
  k.z.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, grid, scratch) : forward<float>(cpu, k, grid, scratch);
}
void side_inject_backward(const Cpu& cpu, const SideInjectBackward& k, const PatchGrid& grid, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, grid, scratch) : backward<float>(cpu, k, grid, scratch);
}
void side_step_forward(const Cpu& cpu, const SideStepForward& k, const PatchGrid& grid, Workspace scratch) {
  k.z.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, grid, scratch) : forward<float>(cpu, k, grid, scratch);
}
void side_step_backward(const Cpu& cpu, const SideStepBackward& k, const PatchGrid& grid, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, grid, scratch) : backward<float>(cpu, k, grid, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(side_inject_forward);
HWY_EXPORT(side_inject_backward);
HWY_EXPORT(side_step_forward);
HWY_EXPORT(side_step_backward);

// Without a kernel, nothing is read from it.
template <class Arguments>
PatchGrid patch_grid(const Arguments& k) {
  if (!k.weight) return {};
  const int64_t tokens = k.prefix_tokens + k.grid[0] * k.grid[1], channels = k.h.dim(-1);
  return {k.h.rows() / tokens, k.prefix_tokens, k.grid[0], k.grid[1], channels, k.weight.dim(-1)};
}

void run(Cpu& cpu, const SideInjectForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(side_inject_forward)(cpu, k, patch_grid(k), scratch);
}
void run(Cpu& cpu, const SideInjectBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(side_inject_backward)(cpu, k, patch_grid(k), scratch);
}

void run(Cpu& cpu, const SideStepForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(side_step_forward)(cpu, k, patch_grid(k), scratch);
}
void run(Cpu& cpu, const SideStepBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(side_step_backward)(cpu, k, patch_grid(k), scratch);
}

template <class Arguments>
int64_t forward_workspace(const Arguments& k) {
  return k.weight ? patch_grid(k).forward_workspace() : 0;
}
template <class Arguments>
int64_t backward_workspace(const Arguments& k) {
  return k.weight ? patch_grid(k).backward_workspace(static_cast<bool>(k.grad_h), static_cast<bool>(k.grad_weight)) : 0;
}
int64_t workspace(Cpu&, const SideInjectForward& k) { return forward_workspace(k); }
int64_t workspace(Cpu&, const SideStepForward& k) { return forward_workspace(k); }
int64_t workspace(Cpu&, const SideInjectBackward& k) { return backward_workspace(k); }
int64_t workspace(Cpu&, const SideStepBackward& k) { return backward_workspace(k); }

SIDETUNE_CPU_KERNEL(SideInjectForward)
SIDETUNE_CPU_KERNEL(SideInjectBackward)
SIDETUNE_CPU_KERNEL(SideStepForward)
SIDETUNE_CPU_KERNEL(SideStepBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
