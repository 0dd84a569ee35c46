#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/factor.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../factor.h"
#include "parallel.h"

#ifndef SIDETUNE_CPU_FACTOR
#define SIDETUNE_CPU_FACTOR
namespace sidetune::cpu {

// Rows [a, b] of the core, with r c each and `count` multiplications a number, that are worth a thread.
inline int64_t pairs_a_thread(int64_t r, int64_t count) { return std::max<int64_t>(1, 65536 / (r * count)); }

// The columns at work, one after the other: [count, r].
inline const float* turned_columns(const Tensor& factors, int64_t column, int64_t count, Workspace& scratch) {
  const int64_t r = factors.dim(0), T = factors.dim(1);
  float* turned = scratch.take<float>(count * r);
  for (int64_t t = 0; t < count; t++)
    for (int64_t c = 0; c < r; c++) turned[t * r + c] = factors.as<float>()[c * T + column + t];
  return turned;
}

}  // namespace sidetune::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

HWY_INLINE float dot(const float* x, const float* y, int64_t count) {
  V total = hn::Zero(F());
  for_each_vector(count, [&](size_t, auto at, auto) HWY_ATTR { total = hn::MulAdd(at(x), at(y), total); });
  return sum(total);
}

// to += factor · x
HWY_INLINE void add_scaled(float factor, const float* x, int64_t count, float* to) {
  const V times = hn::Set(F(), factor);
  for_each_vector(count, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::MulAdd(times, at(x), at(to)), to); });
}

void factor_forward(const Cpu& cpu, const FactorContractForward& k, Workspace scratch) {
  const int64_t r = k.core.dim(0);
  const FactorPlaces places(k.layout, r, k.count);
  const float* columns = turned_columns(k.factors, k.column, k.count, scratch);
  parallel_ranges(cpu, r * r, pairs_a_thread(r, k.count), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t pair = begin; pair < end; pair++) {
      float* out = k.out.as<float>() + pair / r * places.of_a + pair % r * places.of_b;
      for (int64_t t = 0; t < k.count; t++) out[t * places.of_t] = dot(k.core.as<float>() + pair * r, columns + t * r, r);
    }
  });
}

void factor_backward(const Cpu& cpu, const FactorContractBackward& k, Workspace scratch) {
  const int64_t r = k.grad_out.dim(1), pairs = r * r, groups = group_count(pairs), per_group = group_rows(pairs);
  const FactorPlaces places(k.layout, r, k.count);
  const float* columns = k.grad_core ? turned_columns(k.factors, k.column, k.count, scratch) : nullptr;
  float* sums = k.grad_factors ? scratch.take<float>(groups * k.count * r) : nullptr;
  const int64_t grain = std::max<int64_t>(1, pairs_a_thread(r, k.count) / per_group);
  parallel_ranges(cpu, groups, grain, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t group = begin; group < end; group++) {
      float* of_group = sums ? sums + group * k.count * r : nullptr;
      if (of_group) std::fill_n(of_group, k.count * r, 0.0f);
      for (int64_t pair = group * per_group; pair < std::min(pairs, (group + 1) * per_group); pair++) {
        const float* g = k.grad_out.as<float>() + pair / r * places.of_a + pair % r * places.of_b;
        for (int64_t t = 0; t < k.count; t++) {
          const float gradient = g[t * places.of_t];
          if (columns) add_scaled(gradient, columns + t * r, r, k.grad_core.as<float>() + pair * r);
          if (of_group) add_scaled(gradient, k.core.as<float>() + pair * r, r, of_group + t * r);
        }
      }
    }
  });
  if (!sums) return;
  const int64_t T = k.grad_factors.dim(1);
  for (int64_t group = 0; group < groups; group++) {
    for (int64_t t = 0; t < k.count; t++) {
      for (int64_t c = 0; c < r; c++) k.grad_factors.as<float>()[c * T + k.column + t] += sums[(group * k.count + t) * r + c];
    }
  }
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(factor_forward);
HWY_EXPORT(factor_backward);

void run(Cpu& cpu, const FactorContractForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(factor_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const FactorContractBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(factor_backward)(cpu, k, scratch); }

int64_t workspace(Cpu&, const FactorContractForward& k) { return Workspace::aligned<float>(k.count * k.core.dim(0)); }
int64_t workspace(Cpu&, const FactorContractBackward& k) {
  const int64_t r = k.grad_out.dim(1);
  return (k.grad_core ? Workspace::aligned<float>(k.count * r) : 0) +
         (k.grad_factors ? Workspace::aligned<float>(group_count(r * r) * k.count * r) : 0);
}

SIDETUNE_CPU_KERNEL(FactorContractForward)
SIDETUNE_CPU_KERNEL(FactorContractBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
