#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/gate.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include <cmath>

#include "../gate.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 16384;  // numbers that are worth a thread

// mu, 1 − mu and dmu/dalpha. An exponential that overflows gives 0.
struct Gate {
  float mu, rest, slope;
  Gate(const Tensor& alpha, float temperature) {
    const double t = static_cast<double>(*alpha.as<float>()) / static_cast<double>(temperature);
    const double open = 1 / (1 + std::exp(-t)), shut = 1 / (1 + std::exp(t));
    mu = static_cast<float>(open), rest = static_cast<float>(shut);
    slope = static_cast<float>(open * shut / static_cast<double>(temperature));
  }
};

template <class T>
void forward(const Cpu& cpu, const GateForward& k) {
  const Gate gate(k.alpha, k.temperature);
  const V mu = hn::Set(F(), gate.mu), rest = hn::Set(F(), gate.rest);
  parallel_ranges(cpu, k.a.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const T *a = k.a.as<T>() + begin, *b = k.b.as<T>() + begin;
    T* out = k.out.as<T>() + begin;
    for_each_vector(end - begin,
                    [&](size_t, auto at, auto put) HWY_ATTR { put(hn::MulAdd(mu, at(a), hn::Mul(rest, at(b))), out); });
  });
}

// Null pointers stand for what is not wanted. Returns Σ gradOut ∘ (a − b).
template <class T>
float backward_group(const T* grad_out, const T* a, const T* b, const Gate& gate, int64_t count, T* grad_a, T* grad_b) {
  const V mu = hn::Set(F(), gate.mu), rest = hn::Set(F(), gate.rest);
  V total = hn::Zero(F());
  for_each_vector(count, [&](size_t, auto at, auto put) HWY_ATTR {
    const V gradient = at(grad_out);
    if (a) total = hn::MulAdd(gradient, hn::Sub(at(a), at(b)), total);
    if (grad_a) put(hn::Mul(mu, gradient), grad_a);
    if (grad_b) put(hn::Mul(rest, gradient), grad_b);
  });
  return sum(total);
}

template <class T>
void backward(const Cpu& cpu, const GateBackward& k, Workspace scratch) {
  if (!k.grad_a && !k.grad_b && !k.grad_alpha) return;
  const Gate gate(k.alpha, k.temperature);
  constexpr int64_t kGroup = GateBackward::kGroup;
  const int64_t size = k.grad_out.size(), groups = k.groups();
  float* sums = k.grad_alpha ? scratch.take<float>(groups) : nullptr;
  parallel_ranges(cpu, groups, kGrain / kGroup, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; group++) {
      const int64_t first = group * kGroup;
      const auto part = [&](const Tensor& t, bool wanted) { return wanted ? t.as<T>() + first : nullptr; };
      const float total =
          backward_group<T>(k.grad_out.as<T>() + first, part(k.a, sums), part(k.b, sums), gate, std::min(kGroup, size - first),
                            part(k.grad_a, static_cast<bool>(k.grad_a)), part(k.grad_b, static_cast<bool>(k.grad_b)));
      if (sums) sums[group] = total;
    }
  });
  if (!sums) return;
  float total = 0;
  for (int64_t group = 0; group < groups; group++) total += sums[group];
  *k.grad_alpha.as<float>() += gate.slope * total;
}

void gate_forward(const Cpu& cpu, const GateForward& k) {
  k.a.dtype == DType::bf16 ? forward<bf16_t>(cpu, k) : forward<float>(cpu, k);
}
void gate_backward(const Cpu& cpu, const GateBackward& k, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, scratch) : backward<float>(cpu, k, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(gate_forward);
HWY_EXPORT(gate_backward);

void run(Cpu& cpu, const GateForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(gate_forward)(cpu, k); }
void run(Cpu& cpu, const GateBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(gate_backward)(cpu, k, scratch); }

int64_t workspace(Cpu&, const GateBackward& k) { return k.grad_alpha ? Workspace::aligned<float>(k.groups()) : 0; }

SIDETUNE_CPU_KERNEL(GateForward)
SIDETUNE_CPU_KERNEL(GateBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
