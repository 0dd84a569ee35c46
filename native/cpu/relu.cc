#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/relu.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../relu.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 4096;  // numbers that are worth a thread

template <class T>
void forward(const Cpu& cpu, const ReluForward& k) {
  parallel_ranges(cpu, k.x.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const T* x = k.x.as<T>() + begin;
    T* out = k.out.as<T>() + begin;
    for_each_vector(end - begin, [&](size_t, auto at, auto put) HWY_ATTR {
      const auto value = at(x);
      put(hn::IfThenZeroElse(hn::Le(value, hn::Zero(hn::DFromV<decltype(value)>())), value), out);  // NaN stays NaN
    });
  });
}

template <class T>
void backward(const Cpu& cpu, const ReluBackward& k) {
  parallel_ranges(cpu, k.out.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const T *grad_out = k.grad_out.as<T>() + begin, *out = k.out.as<T>() + begin;
    T* grad_x = k.grad_x.as<T>() + begin;
    for_each_vector(end - begin, [&](size_t, auto at, auto put) HWY_ATTR {
      const auto value = at(out);
      put(hn::IfThenZeroElse(hn::Le(value, hn::Zero(hn::DFromV<decltype(value)>())), at(grad_out)), grad_x);
    });
  });
}

void relu_forward(const Cpu& cpu, const ReluForward& k) {
  if (k.out) k.x.dtype == DType::bf16 ? forward<bf16_t>(cpu, k) : forward<float>(cpu, k);
}
void relu_backward(const Cpu& cpu, const ReluBackward& k) {
  if (k.grad_x) k.out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k) : backward<float>(cpu, k);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(relu_forward);
HWY_EXPORT(relu_backward);

void run(Cpu& cpu, const ReluForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(relu_forward)(cpu, k); }
void run(Cpu& cpu, const ReluBackward& k, Workspace) { HWY_DYNAMIC_DISPATCH(relu_backward)(cpu, k); }

SIDETUNE_CPU_KERNEL(ReluForward)
SIDETUNE_CPU_KERNEL(ReluBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
