#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/attention_class.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include <algorithm>
#include <cmath>

#include "../attention.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int kHeads = 4;  // that share each load of a token

// kCount sums Σ a b_j over n numbers; the rows b_j are `distance` numbers apart.
template <int kCount, class A, class B>
HWY_INLINE void dots(const A* a, const B* b, int64_t distance, int64_t n, float* sums) {
  V totals[kCount];
  for (V& total : totals) total = hn::Zero(F());
  for_each_vector(n, [&](size_t, auto at, auto) HWY_ATTR {
    const V v = at(a);
    for (int j = 0; j < kCount; j++) totals[j] = hn::MulAdd(v, at(b + j * distance), totals[j]);
  });
  for (int j = 0; j < kCount; j++) sums[j] = sum(totals[j]);
}

// What the four steps share: q, then the heads' keys g (m takes their place), and the scores.
struct Plan {
  int64_t images, tokens, inputs, heads, width, d;
  float scale;
  float *q, *g, *scores;

  Plan(const ClassAttentionForward& k, Workspace scratch)
      : images(k.x.dim(0)),
        tokens(k.x.dim(1)),
        inputs(k.x.dim(2)),
        heads(k.heads),
        width(k.weight.dim(0) / 3 / k.heads),
        d(k.weight.dim(0) / 3),
        scale(k.scale != 0 ? k.scale : 1 / std::sqrt(static_cast<float>(width))),
        q(scratch.take<float>(images * d)),
        g(scratch.take<float>(images * heads * inputs)),
        scores(scratch.take<float>(images * heads * tokens)) {}
};

// Outputs [begin, begin + d) of the layer, an image after the other; `row_of(image, output)` is what the output is made of.
template <class W, class RowOf, class Put>
void project(const Cpu& cpu, const Plan& plan, const Tensor& weight, const Tensor& bias, int64_t first_output,
             const RowOf& row_of, const Put& put) {
  const W* w = weight.as<W>() + first_output * plan.inputs;
  const float* b = bias ? bias.as<float>() + first_output : nullptr;
  parallel_ranges(cpu, plan.d, 16, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; o++) {
      for (int64_t image = 0; image < plan.images; image++) {
        float total;
        dots<1>(w + o * plan.inputs, row_of(image, o), 0, plan.inputs, &total);
        put(image, o, b ? total + b[o] : total);
      }
    }
  });
}

// g = Σ_e q_e (row e of the head's part of W_k)
template <class W>
void head_key(const Plan& plan, const float* q, const W* w, float* g) {
  for_each_vector(plan.inputs, [&](size_t, auto at, auto put) HWY_ATTR {
    V total = hn::Zero(F());
    for (int64_t e = 0; e < plan.width; e++) total = hn::MulAdd(hn::Set(F(), q[e]), at(w + e * plan.inputs), total);
    put(total, g);
  });
}

// A row of scores becomes p.
void softmax(float* s, int64_t count) {
  const F f;
  V top = hn::Set(f, s[0]);
  for_each_vector(count, [&](size_t i, auto at, auto) HWY_ATTR {
    const V v = at(s);
    top = hn::Max(top, count - i >= static_cast<int64_t>(lanes()) ? v : hn::IfThenElse(hn::FirstN(f, count - i), v, top));
  });
  const V centre = hn::Set(f, max(top));
  V total = hn::Zero(f);
  for_each_vector(count, [&](size_t i, auto at, auto put) HWY_ATTR {
    const V e = exp(hn::Sub(at(s), centre));
    total = hn::Add(total, first(e, i, count));
    put(e, s);
  });
  const V factor = hn::Set(f, 1 / sum(total));
  for_each_vector(count, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Mul(at(s), factor), s); });
}

// kCount neighbouring heads of an image: m = Σ_n p_n x_n, in the place of g.
template <int kCount, class T>
void attend(const Plan& plan, const T* x, float* g, float* scores) {
  const int64_t N = plan.tokens, I = plan.inputs;
  for (int64_t n = 0; n < N; n++) {
    float products[kCount];
    dots<kCount>(x + n * I, g, I, I, products);
    for (int j = 0; j < kCount; j++) scores[j * N + n] = plan.scale * products[j];
  }
  for (int j = 0; j < kCount; j++) softmax(scores + j * N, N);
  for_each_vector(I, [&](size_t, auto at, auto put) HWY_ATTR {
    V totals[kCount];
    for (V& total : totals) total = hn::Zero(F());
    for (int64_t n = 0; n < N; n++) {
      const V v = at(x + n * I);
      for (int j = 0; j < kCount; j++) totals[j] = hn::MulAdd(hn::Set(F(), scores[j * N + n]), v, totals[j]);
    }
    for (int j = 0; j < kCount; j++) put(totals[j], g + j * I);
  });
}

template <class T, class W>
void forward(const Cpu& cpu, const ClassAttentionForward& k, Workspace scratch) {
  const Plan plan(k, scratch);
  const int64_t N = plan.tokens, I = plan.inputs, H = plan.heads, E = plan.width, d = plan.d;
  if (plan.images == 0) return;
  const T* x = k.x.as<T>();
  project<W>(
      cpu, plan, k.weight, k.bias, 0, [&](int64_t image, int64_t) { return x + image * N * I; },
      [&](int64_t image, int64_t o, float value) { plan.q[image * d + o] = value; });
  parallel_items(cpu, H * plan.images, [&](int64_t item) {
    const int64_t head = item / plan.images, image = item % plan.images;
    head_key(plan, plan.q + image * d + head * E, k.weight.as<W>() + (d + head * E) * I, plan.g + (image * H + head) * I);
  });
  const int64_t groups = (H + kHeads - 1) / kHeads;
  parallel_items(cpu, plan.images * groups, [&](int64_t item) {
    const int64_t image = item / groups, begin = item % groups * kHeads, end = std::min(H, begin + kHeads);
    float *g = plan.g + (image * H + begin) * I, *scores = plan.scores + (image * H + begin) * N;
    if (end - begin == kHeads) return attend<kHeads>(plan, x + image * N * I, g, scores);
    for (int64_t head = begin; head < end; head++, g += I, scores += N) attend<1>(plan, x + image * N * I, g, scores);
  });
  project<W>(
      cpu, plan, k.weight, k.bias, 2 * d, [&](int64_t image, int64_t o) { return plan.g + (image * H + o / E) * I; },
      [&](int64_t image, int64_t o, float value) { store_tail(hn::Set(F(), value), k.out.as<T>() + image * d + o, 1); });
}

template <class T>
void forward_from(const Cpu& cpu, const ClassAttentionForward& k, Workspace scratch) {
  k.weight.dtype == DType::bf16 ? forward<T, bf16_t>(cpu, k, scratch) : forward<T, float>(cpu, k, scratch);
}
void class_attention(const Cpu& cpu, const ClassAttentionForward& k, Workspace scratch) {
  k.x.dtype == DType::bf16 ? forward_from<bf16_t>(cpu, k, scratch) : forward_from<float>(cpu, k, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(class_attention);

void run(Cpu& cpu, const ClassAttentionForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(class_attention)(cpu, k, scratch); }
int64_t workspace(Cpu&, const ClassAttentionForward& k) {
  const int64_t images = k.x.dim(0);
  return Workspace::aligned<float>(images * k.weight.dim(0) / 3) + Workspace::aligned<float>(images * k.heads * k.x.dim(2)) +
         Workspace::aligned<float>(images * k.heads * k.x.dim(1));
}

SIDETUNE_CPU_KERNEL(ClassAttentionForward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
