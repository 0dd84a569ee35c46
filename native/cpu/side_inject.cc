#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/side_inject.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
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

// DTL+: θ(h) is the convolution's source, the residual add its sink.
struct Theta {
  const float* h;
  float beta;
  HWY_INLINE V operator()(int64_t place, size_t left) const { return swish(load_upto(h + place, left), hn::Set(F(), beta)); }
  HWY_INLINE void prefetch(int64_t place, int64_t count) const { HWY_NAMESPACE::prefetch(h + place, count); }
};

template <class T>
struct AddToTokens {
  const T* z;
  T* out;
  HWY_INLINE void operator()(int64_t place, size_t left, V result) const {
    store_upto(hn::Add(load_upto(z + place, left), result), out + place, left);
  }
  HWY_INLINE void prefetch(int64_t place, int64_t count) const {
    HWY_NAMESPACE::prefetch(z + place, count);
    HWY_NAMESPACE::prefetch(out + place, count);
  }
};

struct ThetaGradient {
  const float *h, *residual;
  float beta;
  float* grad_h;
  HWY_INLINE void operator()(int64_t place, size_t left, V gradient) const {
    const V slope = swish_slope(load_upto(h + place, left), hn::Set(F(), beta));
    store_upto(residual ? hn::MulAdd(slope, gradient, load_upto(residual + place, left)) : hn::Mul(slope, gradient),
               grad_h + place, left);
  }
  HWY_INLINE void prefetch(int64_t place, int64_t count) const {
    HWY_NAMESPACE::prefetch(h + place, count);
    if (residual) HWY_NAMESPACE::prefetch(residual + place, count);
    HWY_NAMESPACE::prefetch(grad_h + place, count);
  }
};

template <class T>
void inject_convolved(const Cpu& cpu, const SideInjectForward& k, const PatchGrid& grid, Workspace scratch) {
  convolve(cpu, grid, k.weight.as<float>(), scratch, Theta{k.h.as<float>(), k.beta}, AddToTokens<T>{k.z.as<T>(), k.out.as<T>()});
}

template <class T>
void inject_convolved_backward(const Cpu& cpu, const SideInjectBackward& k, const PatchGrid& grid, Workspace scratch) {
  if (!k.grad_h && !k.grad_weight) return;
  const float* h = k.h.as<float>();
  convolve_backward(cpu, grid, k.weight.as<float>(), scratch, Theta{h, k.beta}, Numbers<T>{k.grad_out.as<T>()},
                    static_cast<bool>(k.grad_h), ThetaGradient{h, k.residual.as<float>(), k.beta, k.grad_h.as<float>()},
                    k.grad_weight.as<float>());
}

template <class T>
void forward(const Cpu& cpu, const SideInjectForward& k, const PatchGrid& grid, Workspace scratch) {
  k.weight ? inject_convolved<T>(cpu, k, grid, scratch) : inject<T>(cpu, k);
}
template <class T>
void backward(const Cpu& cpu, const SideInjectBackward& k, const PatchGrid& grid, Workspace scratch) {
  if (k.weight) return inject_convolved_backward<T>(cpu, k, grid, scratch);
  if (k.grad_h) inject_backward<T>(cpu, k);
}

void side_inject_forward(const Cpu& cpu, const SideInjectForward& k, const PatchGrid& grid, Workspace scratch) {
  k.z.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, grid, scratch) : forward<float>(cpu, k, grid, scratch);
}
void side_inject_backward(const Cpu& cpu, const SideInjectBackward& k, const PatchGrid& grid, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, grid, scratch) : backward<float>(cpu, k, grid, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(side_inject_forward);
HWY_EXPORT(side_inject_backward);

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

int64_t workspace(Cpu&, const SideInjectForward& k) { return k.weight ? patch_grid(k).forward_workspace() : 0; }
int64_t workspace(Cpu&, const SideInjectBackward& k) {
  return k.weight ? patch_grid(k).backward_workspace(static_cast<bool>(k.grad_h), static_cast<bool>(k.grad_weight)) : 0;
}

SIDETUNE_CPU_KERNEL(SideInjectForward)
SIDETUNE_CPU_KERNEL(SideInjectBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
