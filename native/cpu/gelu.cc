#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/gelu.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../gelu.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 4096;  // numbers that are worth a thread

template <class T>
void forward(const Cpu& cpu, const GeluForward& k) {
  parallel_ranges(cpu, k.x.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const T* x = k.x.as<T>() + begin;
    T* out = k.out.as<T>() + begin;
    for_each_vector(end - begin, [&](size_t, auto at, auto put) HWY_ATTR { put(gelu(at(x)), out); });
  });
}

template <class T>
void backward(const Cpu& cpu, const GeluBackward& k) {
  parallel_ranges(cpu, k.x.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const T *grad_out = k.grad_out.as<T>() + begin, *x = k.x.as<T>() + begin;
    T* grad_x = k.grad_x.as<T>() + begin;
    for_each_vector(end - begin,
                    [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Mul(at(grad_out), gelu_derivative(at(x))), grad_x); });
  });
}

void gelu_forward(const Cpu& cpu, const GeluForward& k) {
  if (k.out) k.x.dtype == DType::bf16 ? forward<bf16_t>(cpu, k) : forward<float>(cpu, k);
}
void gelu_backward(const Cpu& cpu, const GeluBackward& k) {
  if (k.grad_x) k.x.dtype == DType::bf16 ? backward<bf16_t>(cpu, k) : backward<float>(cpu, k);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(gelu_forward);
HWY_EXPORT(gelu_backward);

void run(Cpu& cpu, const GeluForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(gelu_forward)(cpu, k); }
void run(Cpu& cpu, const GeluBackward& k, Workspace) { HWY_DYNAMIC_DISPATCH(gelu_backward)(cpu, k); }

SIDETUNE_CPU_KERNEL(GeluForward)
SIDETUNE_CPU_KERNEL(GeluBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
