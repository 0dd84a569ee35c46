#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/swish.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../swish.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 4096;  // numbers that are worth a thread

template <class T>
void forward(const Cpu& cpu, const SwishForward& k) {
  const V beta = hn::Set(F(), k.beta);
  parallel_ranges(cpu, k.x.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const T* x = k.x.as<T>() + begin;
    T* out = k.out.as<T>() + begin;
    for_each_vector(end - begin, [&](size_t, auto at, auto put) HWY_ATTR { put(swish(at(x), beta), out); });
  });
}

template <class T>
void backward(const Cpu& cpu, const SwishBackward& k) {
  if (!k.grad_x) return;
  const V beta = hn::Set(F(), k.beta);
  parallel_ranges(cpu, k.x.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const T *grad_out = k.grad_out.as<T>() + begin, *x = k.x.as<T>() + begin;
    T* grad_x = k.grad_x.as<T>() + begin;
    for_each_vector(end - begin,
                    [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Mul(at(grad_out), swish_slope(at(x), beta)), grad_x); });
  });
}

void swish_forward(const Cpu& cpu, const SwishForward& k) {
  k.x.dtype == DType::bf16 ? forward<bf16_t>(cpu, k) : forward<float>(cpu, k);
}
void swish_backward(const Cpu& cpu, const SwishBackward& k) {
  k.x.dtype == DType::bf16 ? backward<bf16_t>(cpu, k) : backward<float>(cpu, k);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(swish_forward);
HWY_EXPORT(swish_backward);

void run(Cpu& cpu, const SwishForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(swish_forward)(cpu, k); }
void run(Cpu& cpu, const SwishBackward& k, Workspace) { HWY_DYNAMIC_DISPATCH(swish_backward)(cpu, k); }

SIDETUNE_CPU_KERNEL(SwishForward)
SIDETUNE_CPU_KERNEL(SwishBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
