#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/attention.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
#include "product-inl.h"
// clang-format on

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "attention.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

// Rows of one head, widened to f32, times `factor`, side by side; rows from `rows` to `padded_rows` become zero.
template <class T>
void pack(const T* from, int64_t from_row, int64_t rows, int64_t padded_rows, int64_t width, float factor, float* to, int64_t to_row) {
  const F f;
  const int64_t step = static_cast<int64_t>(lanes());
  const V times = hn::Set(f, factor);
  for (int64_t row = 0; row < padded_rows; row++, from += from_row, to += to_row) {
    for (int64_t e = 0; e < width; e += step) {
      const V x = row >= rows ? hn::Zero(f) : e + step <= width ? load(from + e) : load_tail(from + e, width - e);
      store(hn::Mul(x, times), to + e);
    }
  }
}

template <class T>
void unpack_row(const float* from, float factor, int64_t width, T* to) {
  const V times = hn::Set(F(), factor);
  for_each_vector(width, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Mul(at(from), times), to); });
}

// to[column][row] = from[row][column], in squares of 4×4.
void transpose(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row) {
  for (int64_t row = 0; row < rows; row += 4) {
    for (int64_t column = 0; column < columns; column += 4) {
      const float* x = from + row * from_row + column;
      float* y = to + column * to_row + row;
#if HWY_TARGET == HWY_SCALAR
      for (int i = 0; i < 16; i++) y[i / 4 * to_row + i % 4] = x[i % 4 * from_row + i / 4];
#else
      const hn::FixedTag<float, 4> f;
      const auto a = hn::LoadU(f, x), b = hn::LoadU(f, x + from_row), c = hn::LoadU(f, x + 2 * from_row), d = hn::LoadU(f, x + 3 * from_row);
      const auto ab = hn::InterleaveLower(f, a, b), cd = hn::InterleaveLower(f, c, d);
      const auto ab_high = hn::InterleaveUpper(f, a, b), cd_high = hn::InterleaveUpper(f, c, d);
      hn::StoreU(hn::ConcatLowerLower(f, cd, ab), f, y);
      hn::StoreU(hn::ConcatUpperUpper(f, cd, ab), f, y + to_row);
      hn::StoreU(hn::ConcatLowerLower(f, cd_high, ab_high), f, y + 2 * to_row);
      hn::StoreU(hn::ConcatUpperUpper(f, cd_high, ab_high), f, y + 3 * to_row);
#endif
    }
  }
}

// Packs the rows of all tokens into `rows` and their transpose into `columns`, which ends in columns of zeros.
template <class T>
void pack_transposed(const T* from, int64_t from_row, const AttentionPlan& plan, float* rows, float* columns) {
  const int64_t padded = round_up(plan.tokens, kPadColumns);
  pack(from, from_row, plan.tokens, padded, plan.width, 1, rows, plan.channel_row);
  transpose(rows, plan.channel_row, padded, plan.width, columns, plan.score_row);
}

// Puts −∞ where the last vector of a row of scores reaches beyond the last token, so that p is 0 there; returns the end of that vector.
int64_t close_row(float* s, int64_t tokens) {
  const F f;
  const int64_t step = static_cast<int64_t>(lanes()), end = round_up(tokens, step), last = end - step;
  store(hn::IfThenElse(hn::FirstN(f, tokens - last), load(s + last), hn::Set(f, -std::numeric_limits<float>::infinity())), s + last);
  return end;
}

struct Softmax {
  float max, sum;
};

// One row of scores s log₂e becomes 2^(s log₂e − max), not yet divided by its sum.
Softmax softmax_row(float* s, int64_t tokens) {
  const F f;
  const int64_t step = static_cast<int64_t>(lanes()), end = close_row(s, tokens);
  V top = load(s);
  for (int64_t i = step; i < end; i += step) top = hn::Max(top, load(s + i));
  const V centre = hn::MaxOfLanes(f, top);
  V total = hn::Zero(f);
  for (int64_t i = 0; i < end; i += step) {
    const V p = exp2(hn::Sub(load(s + i), centre));
    total = hn::Add(total, p);
    store(p, s + i);
  }
  return {hn::GetLane(centre), sum(total)};
}

// One row of scores s log₂e becomes p, and dp becomes ds = p ∘ (dp − D). p is divided by its sum, which is 1 but for the rounding of lse: where
// attention is saturated, that rounding would pass for a gradient.
void softmax_gradient_row(float* s, float* dp, float lse, int64_t tokens) {
  const F f;
  const int64_t step = static_cast<int64_t>(lanes()), end = close_row(s, tokens);
  const V centre = hn::Set(f, lse * kLog2e);
  V total = hn::Zero(f), total_dp = hn::Zero(f);
  for (int64_t i = 0; i < end; i += step) {
    const V p = exp2(hn::Sub(load(s + i), centre));
    total = hn::Add(total, p);
    total_dp = hn::MulAdd(p, load(dp + i), total_dp);
    store(p, s + i);
  }
  const float factor = 1 / sum(total);
  const V times = hn::Set(f, factor), d = hn::Set(f, factor * sum(total_dp));
  for (int64_t i = 0; i < end; i += step) {
    const V p = hn::Mul(load(s + i), times);
    store(p, s + i);
    store(hn::Mul(p, hn::Sub(load(dp + i), d)), dp + i);
  }
}

// A head's place in a tensor of [B, N, parts · d]: its first channel in its image's first row.
template <class T>
T* head_of(const Tensor& t, const AttentionPlan& plan, int64_t item) {
  const int64_t image = item / plan.heads, head = item % plan.heads;
  return t.as<T>() + image * plan.tokens * t.dim(-1) + head * plan.width;
}

// Calls head(item, scratch) for each image and head. Each worker has its part of the scratch memory and takes the next head when it is done with one.
template <class Head>
void for_each_head(const Cpu& cpu, const AttentionPlan& plan, Workspace scratch, int64_t bytes, const Head& head) {
  std::atomic<int64_t> next{0};
  parallel_items(cpu, plan.workers(cpu), [&](int64_t worker) {
    for (int64_t item = next++; item < plan.images * plan.heads; item = next++) head(item, Workspace{scratch.data + worker * bytes, bytes});
  });
}

template <class T>
void forward_head(const AttentionPlan& plan, const T* qkv, T* out, float* lse, Workspace scratch) {
  const int64_t N = plan.tokens, E = plan.width, d = plan.heads * E, score_row = plan.score_row, channel_row = plan.channel_row;
  float* keys = scratch.take<float>(plan.columns_size());  // [E, N]
  float* values = scratch.take<float>(plan.rows_size());   // [N, E]
  float* queries = scratch.take<float>(plan.tile_size());
  float* sums = scratch.take<float>(plan.tile_size());
  float* scores = scratch.take<float>(plan.scores_size());

  pack_transposed(qkv + d, 3 * d, plan, values, keys);
  pack(qkv + 2 * d, 3 * d, N, N, E, 1, values, channel_row);
  for (int64_t begin = 0; begin < N; begin += plan.tile) {
    const int64_t rows = std::min(plan.tile, N - begin);
    pack(qkv + begin * 3 * d, 3 * d, rows, round_up(rows, kPadRows), E, plan.scale * kLog2e, queries, channel_row);
    product(rows, E, N, {queries, channel_row, 1}, keys, score_row, scores, score_row, false);
    float factors[AttentionPlan::kTile];
    for (int64_t row = 0; row < rows; row++) {
      const Softmax p = softmax_row(scores + row * score_row, N);
      factors[row] = 1 / p.sum;
      if (lse) lse[begin + row] = (p.max + std::log2(p.sum)) * kLn2;
    }
    product(rows, N, E, {scores, score_row, 1}, values, channel_row, sums, channel_row, false);
    for (int64_t row = 0; row < rows; row++) unpack_row(sums + row * channel_row, factors[row], E, out + (begin + row) * d);
  }
}

template <class T>
void backward_head(const AttentionPlan& plan, const T* grad_out, const T* qkv, const float* lse, T* grad_qkv, Workspace scratch) {
  const int64_t N = plan.tokens, E = plan.width, d = plan.heads * E, score_row = plan.score_row, channel_row = plan.channel_row;
  float* keys = scratch.take<float>(plan.rows_size());  // [N, E]
  float* grad_k = scratch.take<float>(plan.rows_size());
  float* grad_v = scratch.take<float>(plan.rows_size());
  float* keys_t = scratch.take<float>(plan.columns_size());  // [E, N]
  float* values_t = scratch.take<float>(plan.columns_size());
  float* queries = scratch.take<float>(plan.tile_size());  // times scale log₂e
  float* grads = scratch.take<float>(plan.tile_size());
  float* grad_q = scratch.take<float>(plan.tile_size());
  float* p = scratch.take<float>(plan.scores_size());
  float* ds = scratch.take<float>(plan.scores_size());

  pack_transposed(qkv + 2 * d, 3 * d, plan, keys, values_t);
  pack_transposed(qkv + d, 3 * d, plan, keys, keys_t);
  for (int64_t begin = 0; begin < N; begin += plan.tile) {
    const int64_t rows = std::min(plan.tile, N - begin);
    pack(qkv + begin * 3 * d, 3 * d, rows, round_up(rows, kPadRows), E, plan.scale * kLog2e, queries, channel_row);
    pack(grad_out + begin * d, d, rows, round_up(rows, kPadRows), E, 1, grads, channel_row);
    product(rows, E, N, {queries, channel_row, 1}, keys_t, score_row, p, score_row, false);
    product(rows, E, N, {grads, channel_row, 1}, values_t, score_row, ds, score_row, false);
    for (int64_t row = 0; row < rows; row++) softmax_gradient_row(p + row * score_row, ds + row * score_row, lse[begin + row], N);
    product(rows, N, E, {ds, score_row, 1}, keys, channel_row, grad_q, channel_row, false);
    product(N, rows, E, {ds, 1, score_row}, queries, channel_row, grad_k, channel_row, begin > 0);
    product(N, rows, E, {p, 1, score_row}, grads, channel_row, grad_v, channel_row, begin > 0);
    for (int64_t row = 0; row < rows; row++) unpack_row(grad_q + row * channel_row, plan.scale, E, grad_qkv + (begin + row) * 3 * d);
  }
  for (int64_t row = 0; row < N; row++) {
    unpack_row(grad_k + row * channel_row, kLn2, E, grad_qkv + row * 3 * d + d);
    unpack_row(grad_v + row * channel_row, 1, E, grad_qkv + row * 3 * d + 2 * d);
  }
}

template <class T>
void forward(const Cpu& cpu, const AttentionForward& k, Workspace scratch) {
  const AttentionPlan plan(k.qkv, k.heads, k.scale);
  for_each_head(cpu, plan, scratch, plan.forward_bytes(), [&](int64_t item, Workspace mine) {
    forward_head(plan, head_of<T>(k.qkv, plan, item), head_of<T>(k.out, plan, item), k.lse ? k.lse.as<float>() + item * plan.tokens : nullptr, mine);
  });
}

template <class T>
void backward(const Cpu& cpu, const AttentionBackward& k, Workspace scratch) {
  const AttentionPlan plan(k.qkv, k.heads, k.scale);
  for_each_head(cpu, plan, scratch, plan.backward_bytes(), [&](int64_t item, Workspace mine) {
    backward_head(plan, head_of<T>(k.grad_out, plan, item), head_of<T>(k.qkv, plan, item), k.lse.as<float>() + item * plan.tokens,
                  head_of<T>(k.grad_qkv, plan, item), mine);
  });
}

void attention_forward(const Cpu& cpu, const AttentionForward& k, Workspace scratch) {
  k.qkv.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, scratch) : forward<float>(cpu, k, scratch);
}
void attention_backward(const Cpu& cpu, const AttentionBackward& k, Workspace scratch) {
  k.qkv.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, scratch) : backward<float>(cpu, k, scratch);
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(attention_forward);
HWY_EXPORT(attention_backward);

void run(Cpu& cpu, const AttentionForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(attention_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const AttentionBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(attention_backward)(cpu, k, scratch); }

int64_t workspace(Cpu& cpu, const AttentionForward& k) {
  const AttentionPlan plan(k.qkv, k.heads, k.scale);
  return plan.workers(cpu) * plan.forward_bytes();
}
int64_t workspace(Cpu& cpu, const AttentionBackward& k) {
  const AttentionPlan plan(k.qkv, k.heads, k.scale);
  return plan.workers(cpu) * plan.backward_bytes();
}

SIDETUNE_CPU_KERNEL(AttentionForward)
SIDETUNE_CPU_KERNEL(AttentionBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
