#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/cross_entropy.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include <cmath>

#include "../cross_entropy.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 1024;  // logits that are worth a thread
int64_t row_grain(int64_t C) { return std::max<int64_t>(1, kGrain / C); }

struct CrossEntropyRow {
  float lse, loss;
  bool correct;
};

// Two reads of the row, the second from cache. The loss is summed from differences to the largest logit, so large logits cost no
// digits.
CrossEntropyRow cross_entropy_row(const float* logits, int64_t C, int32_t label, float smoothing) {
  const F f;
  V largest = hn::Set(f, logits[0]), total = hn::Zero(f), sum_exp = hn::Zero(f);
  for_each_vector(C, [&](size_t i, auto at, auto) HWY_ATTR {
    const V z = at(logits);
    total = hn::Add(total, z);
    const size_t left = C - i;
    largest = hn::Max(largest, left >= lanes() ? z : hn::IfThenElse(hn::FirstN(f, left), z, largest));
  });
  const float top = max(largest), mean = sum(total) / static_cast<float>(C);
  const V shift = hn::Set(f, top);
  for_each_vector(
      C, [&](size_t i, auto at, auto) HWY_ATTR { sum_exp = hn::Add(sum_exp, first(exp(hn::Sub(at(logits), shift)), i, C)); });
  const float log_sum = std::log(sum(sum_exp));

  CrossEntropyRow row;
  row.lse = top + log_sum;
  row.loss = log_sum + (1 - smoothing) * (top - logits[label]);
  if (smoothing > 0) row.loss += smoothing * (top - mean);
  row.correct = logits[label] == top;
  for (int32_t c = 0; row.correct && c < label; c++) row.correct = logits[c] != top;
  return row;
}

void cross_entropy_forward(const Cpu& cpu, const SoftmaxCrossEntropyForward& k, Workspace scratch) {
  const int64_t B = k.logits.dim(0), C = k.logits.dim(1);
  const int32_t* labels = k.labels.as<int32_t>();
  float* losses = scratch.take<float>(B);
  int32_t* hits = scratch.take<int32_t>(B);
  parallel_ranges(cpu, B, row_grain(C), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      const CrossEntropyRow row = cross_entropy_row(k.logits.as<float>() + b * C, C, labels[b], k.label_smoothing);
      losses[b] = row.loss;
      hits[b] = row.correct;
      if (k.lse) k.lse.as<float>()[b] = row.lse;
    }
  });
  double loss = 0;
  int32_t correct = 0;
  for (int64_t b = 0; b < B; b++) loss += losses[b], correct += hits[b];
  if (k.loss) *k.loss.as<float>() = static_cast<float>(loss / static_cast<double>(B));
  if (k.correct) *k.correct.as<int32_t>() = correct;
}

void cross_entropy_backward(const Cpu& cpu, const SoftmaxCrossEntropyBackward& k) {
  const int64_t B = k.logits.dim(0), C = k.logits.dim(1);
  const float scale = *k.grad_loss.as<float>() / static_cast<float>(B), smoothing = k.label_smoothing;
  parallel_ranges(cpu, B, row_grain(C), [&](int64_t begin, int64_t end) HWY_ATTR {
    const V factor = hn::Set(F(), scale), everywhere = hn::Set(F(), smoothing / static_cast<float>(C));
    for (int64_t b = begin; b < end; b++) {
      const float* logits = k.logits.as<float>() + b * C;
      float* grad_logits = k.grad_logits.as<float>() + b * C;
      const int32_t label = k.labels.as<int32_t>()[b];
      const float lse = k.lse.as<float>()[b];
      const V shift = hn::Set(F(), lse);
      for_each_vector(C, [&](size_t, auto at, auto put) HWY_ATTR {
        put(hn::Mul(factor, hn::Sub(exp(hn::Sub(at(logits), shift)), everywhere)), grad_logits);
      });
      grad_logits[label] -= scale * (1 - smoothing);
    }
  });
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(cross_entropy_forward);
HWY_EXPORT(cross_entropy_backward);

namespace {

void check_labels(const Tensor& labels, int64_t classes) {
  for (int64_t row = 0; row < labels.size(); row++) {
    const int32_t label = labels.as<int32_t>()[row];
    if (label >= 0 && label < classes) continue;
    throw Error(Code::late, label_out_of_range(label, row, classes));
  }
}

}  // namespace

void run(Cpu& cpu, const SoftmaxCrossEntropyForward& k, Workspace scratch) {
  check_labels(k.labels, k.logits.dim(1));
  HWY_DYNAMIC_DISPATCH(cross_entropy_forward)(cpu, k, scratch);
}
void run(Cpu& cpu, const SoftmaxCrossEntropyBackward& k, Workspace) {
  if (!k.grad_logits) return;
  check_labels(k.labels, k.logits.dim(1));
  HWY_DYNAMIC_DISPATCH(cross_entropy_backward)(cpu, k);
}

int64_t workspace(Cpu&, const SoftmaxCrossEntropyForward& k) {
  const int64_t B = k.logits.dim(0);
  return Workspace::aligned<float>(B) + Workspace::aligned<int32_t>(B);
}

SIDETUNE_CPU_KERNEL(SoftmaxCrossEntropyForward)
SIDETUNE_CPU_KERNEL(SoftmaxCrossEntropyBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
