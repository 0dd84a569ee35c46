#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/adamw.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../adamw.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 8192;  // numbers that are worth a thread

void update(const AdamwFactors& a, int64_t n, float* parameter, float* first_moment, float* second_moment,
            const float* gradient) {
  const F f;
  const V keep = hn::Set(f, a.keep), rate = hn::Set(f, a.rate), root = hn::Set(f, a.root), eps = hn::Set(f, a.eps);
  const V beta1 = hn::Set(f, a.beta1), beta2 = hn::Set(f, a.beta2);
  const V take1 = hn::Set(f, a.one_minus_beta1), take2 = hn::Set(f, a.one_minus_beta2);
  for_each_vector(n, [&](size_t, auto at, auto put) HWY_ATTR {
    const V g = at(gradient);
    const V m = hn::MulAdd(beta1, at(first_moment), hn::Mul(take1, g));
    const V v = hn::MulAdd(beta2, at(second_moment), hn::Mul(take2, hn::Mul(g, g)));
    const V step = hn::Div(hn::Mul(rate, m), hn::MulAdd(hn::Sqrt(v), root, eps));
    put(m, first_moment);
    put(v, second_moment);
    put(hn::MulSub(keep, at(parameter), step), parameter);
  });
}

// Threads share the numbers of all tensors as if they lay end to end, so many small tensors cost no more than one large one.
void adamw_update(const Cpu& cpu, const AdamwUpdate& k) {
  const AdamwFactors a = k.factors();
  int64_t total = 0;
  for (const Tensor& parameter : k.parameters) total += parameter.size();
  parallel_ranges(cpu, total, kGrain, [&](int64_t begin, int64_t end) {
    int64_t start = 0;
    for (size_t i = 0; i < k.parameters.size() && start < end; i++) {
      const int64_t size = k.parameters[i].size();
      const int64_t from = std::max<int64_t>(begin - start, 0), to = std::min(end - start, size);
      if (from < to) {
        update(a, to - from, k.parameters[i].as<float>() + from, k.first_moments[i].as<float>() + from,
               k.second_moments[i].as<float>() + from, k.gradients[i].as<float>() + from);
      }
      start += size;
    }
  });
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(adamw_update);

void run(Cpu& cpu, const AdamwUpdate& k, Workspace) { HWY_DYNAMIC_DISPATCH(adamw_update)(cpu, k); }

SIDETUNE_CPU_KERNEL(AdamwUpdate)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
