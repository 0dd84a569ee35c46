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

#ifndef SIDETUNE_CPU_SIDE_INJECT_ONCE
#define SIDETUNE_CPU_SIDE_INJECT_ONCE
namespace sidetune::cpu {

// With a kernel only.
template <class Arguments>
PatchGrid patch_grid(const Arguments& k) {
  const int64_t tokens = k.prefix_tokens + k.grid[0] * k.grid[1], channels = k.h.dim(-1);
  return {k.h.size() / std::max<int64_t>(1, tokens * channels), k.prefix_tokens, k.grid[0], k.grid[1], channels, k.weight.dim(-1)};
}

}  // namespace sidetune::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

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

// DTL+: θ(h) goes through the convolution's ring, the residual add is its sink.
template <class T>
void inject_convolved(const Cpu& cpu, const SideInjectForward& k, Workspace scratch) {
  const V beta = hn::Set(F(), k.beta);
  const float* h = k.h.as<float>();
  const T* z = k.z.as<T>();
  T* out = k.out.as<T>();
  convolve(
      cpu, patch_grid(k), k.weight.as<float>(), scratch,  //
      [=](int64_t i, size_t left) HWY_ATTR { return swish(load_upto(h + i, left), beta); },
      [=](int64_t i, size_t left, V sum) HWY_ATTR { store_upto(hn::Add(load_upto(z + i, left), sum), out + i, left); });
}

template <class T>
void inject_convolved_backward(const Cpu& cpu, const SideInjectBackward& k, Workspace scratch) {
  if (!k.grad_h && !k.grad_weight) return;
  const V beta = hn::Set(F(), k.beta);
  const T* grad_out = k.grad_out.as<T>();
  const float *h = k.h.as<float>(), *residual = k.residual.as<float>();
  float* grad_h = k.grad_h.as<float>();
  convolve_backward(
      cpu, patch_grid(k), k.weight.as<float>(), scratch,  //
      [=](int64_t i, size_t left) HWY_ATTR { return swish(load_upto(h + i, left), beta); },
      [=](int64_t i, size_t left) HWY_ATTR { return load_upto(grad_out + i, left); }, static_cast<bool>(k.grad_h),
      [=](int64_t i, size_t left, V sum) HWY_ATTR {
        const V gradient = hn::Mul(swish_slope(load_upto(h + i, left), beta), sum);
        store_upto(residual ? hn::Add(load_upto(residual + i, left), gradient) : gradient, grad_h + i, left);
      },
      k.grad_weight.as<float>());
}

template <class T>
void forward(const Cpu& cpu, const SideInjectForward& k, Workspace scratch) {
  k.weight ? inject_convolved<T>(cpu, k, scratch) : inject<T>(cpu, k);
}
template <class T>
void backward(const Cpu& cpu, const SideInjectBackward& k, Workspace scratch) {
  if (k.weight) return inject_convolved_backward<T>(cpu, k, scratch);
  if (k.grad_h) inject_backward<T>(cpu, k);
}

void side_inject_forward(const Cpu& cpu, const SideInjectForward& k, Workspace scratch) {
  k.z.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, scratch) : forward<float>(cpu, k, scratch);
}
void side_inject_backward(const Cpu& cpu, const SideInjectBackward& k, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, scratch) : backward<float>(cpu, k, scratch);
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(side_inject_forward);
HWY_EXPORT(side_inject_backward);

void run(Cpu& cpu, const SideInjectForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(side_inject_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const SideInjectBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(side_inject_backward)(cpu, k, scratch); }

int64_t workspace(Cpu&, const SideInjectForward& k) { return k.weight ? patch_grid(k).forward_workspace() : 0; }
int64_t workspace(Cpu&, const SideInjectBackward& k) {
  return k.weight ? patch_grid(k).backward_workspace(static_cast<bool>(k.grad_h), static_cast<bool>(k.grad_weight)) : 0;
}

SIDETUNE_CPU_KERNEL(SideInjectForward)
SIDETUNE_CPU_KERNEL(SideInjectBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
