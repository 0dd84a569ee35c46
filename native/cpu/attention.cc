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
namespace {

constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

// Where the last vector of a row of scores reaches beyond the last token, p shall be 0. Returns the end of that vector.
int64_t close_row(float* s, float scale, int64_t tokens) {
  const int64_t step = static_cast<int64_t>(lanes()), end = round_up(tokens, step), last = end - step;
  const V beyond = hn::Set(F(), std::copysign(std::numeric_limits<float>::infinity(), -scale));
  store(hn::IfThenElse(hn::FirstN(F(), tokens - last), load(s + last), beyond), s + last);
  return end;
}

// Softmax works to base 2: in the functions of rows, scale, max and lse include log₂e.
struct Softmax {
  float max, sum;
};

// One row of products q k becomes p, not yet divided by its sum. `p` may be the row itself.
template <class Word>
Softmax softmax_row(float* s, float scale, int64_t tokens, Word* p) {
  const int64_t step = static_cast<int64_t>(lanes()), end = close_row(s, scale, tokens);
  const V times = hn::Set(F(), scale);
  V top = hn::Mul(load(s), times);
  for (int64_t i = step; i < end; i += step) top = hn::Max(top, hn::Mul(load(s + i), times));
  const V centre = hn::MaxOfLanes(F(), top);
  V total = hn::Zero(F());
  for (int64_t i = 0; i < end; i += step) {
    const V e = exp2(hn::MulSub(load(s + i), times, centre));
    total = hn::Add(total, e);
    store_numbers(e, p, i);
  }
  return {hn::GetLane(centre), sum(total)};
}

// One row of products q k becomes p, and dp becomes ds = p ∘ (dp − D). p is divided by its sum, which is 1 but for the rounding
// of lse: where attention is saturated, that rounding would pass for a gradient.
void softmax_gradient_row(float* s, float* dp, float scale, float lse, int64_t tokens) {
  const int64_t step = static_cast<int64_t>(lanes()), end = close_row(s, scale, tokens);
  const V times = hn::Set(F(), scale), centre = hn::Set(F(), lse);
  V total = hn::Zero(F()), total_dp = hn::Zero(F());
  for (int64_t i = 0; i < end; i += step) {
    const V p = exp2(hn::MulSub(load(s + i), times, centre));
    total = hn::Add(total, p);
    total_dp = hn::MulAdd(p, load(dp + i), total_dp);
    store(p, s + i);
  }
  const float factor = 1 / sum(total);
  const V normal = hn::Set(F(), factor), d = hn::Set(F(), factor * sum(total_dp));
  for (int64_t i = 0; i < end; i += step) {
    const V p = hn::Mul(load(s + i), normal);
    store(p, s + i);
    store(hn::Mul(p, hn::Sub(load(dp + i), d)), dp + i);
  }
}

// p and ds of a tile as operands: ds along the keys, and both transposed, along the queries.
template <class Word>
struct TileOperands {
  Strided<Word> ds, ds_t, p_t;
};
TileOperands<float> tile_operands(float* p, float* ds, int64_t, int64_t, int64_t row, const float*) {
  return {{ds, row, 1}, {ds, 1, row}, {p, 1, row}};
}
#if SIDETUNE_PAIRS
// In place: of two rows of p, the first becomes the pairs of p and the second the pairs of ds; the rows of ds become bf16.
TileOperands<Pair> tile_operands(float* p, float* ds, int64_t rows, int64_t tokens, int64_t row, const Pair*) {
  const int64_t step = static_cast<int64_t>(lanes());
  for (int64_t i = 0; i < rows; i += 2) {
    float *p0 = p + i * row, *p1 = p0 + row, *ds0 = ds + i * row, *ds1 = ds0 + row;
    if (i + 1 == rows) {
      memset(p1, 0, row * sizeof(float));
      memset(ds1, 0, row * sizeof(float));
    }
    for (int64_t key = 0; key < tokens; key += step) {
      const V first = load(p0 + key), second = load(p1 + key), ds_first = load(ds0 + key), ds_second = load(ds1 + key);
      store_pairs(first, second, reinterpret_cast<Pair*>(p0) + key);
      store_pairs(ds_first, ds_second, reinterpret_cast<Pair*>(p1) + key);
      store_numbers(ds_first, reinterpret_cast<Pair*>(ds0), key);
      store_numbers(ds_second, reinterpret_cast<Pair*>(ds1), key);
    }
  }
  const Pair *pairs = reinterpret_cast<Pair*>(p), *numbers = reinterpret_cast<Pair*>(ds);
  return {{numbers, row, 1}, {pairs + row, 1, 2 * row}, {pairs, 1, 2 * row}};
}
#endif

template <class T>
void unpack_row(const float* from, float factor, int64_t width, T* to) {
  const V times = hn::Set(F(), factor);
  for_each_vector(width, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Mul(at(from), times), to); });
}

// A head's place in a tensor of [B, N, parts · d]: its first channel in its image's first row.
template <class T>
T* head_of(const Tensor& t, const AttentionPlan& plan, int64_t item) {
  const int64_t image = item / plan.heads, head = item % plan.heads;
  return t.as<T>() + image * plan.tokens * t.dim(-1) + head * plan.width;
}

// Packs [N, E] along E, transposed, with zeros beyond the last token; `rows` is for use in between.
template <class T, class Word>
void pack_columns(const AttentionPlan& plan, const T* from, int64_t from_row, Word* rows, Word* columns) {
  const int64_t padded = round_up(plan.tokens, kPadColumns);
  pack_rows(from, from_row, plan.tokens, padded, plan.width, rows, plan.channel_row);
  transpose(rows, plan.channel_row, padded, words<Word>(plan.width), columns, plan.score_row);
}

template <class T, class Word>
void forward_head(const AttentionPlan& plan, const T* qkv, T* out, float* lse, Workspace scratch) {
  const int64_t N = plan.tokens, E = plan.width, d = plan.heads * E, score_row = plan.score_row, channel_row = plan.channel_row;
  Word* values = scratch.take<Word>(plan.rows_size());
  Word* keys_t = scratch.take<Word>(plan.columns_size());
  Word* queries = scratch.take<Word>(plan.tile_size());
  float* sums = scratch.take<float>(plan.tile_size());
  float* scores = scratch.take<float>(plan.scores_size());
  Word* p = reinterpret_cast<Word*>(scores);

  pack_columns(plan, qkv + d, 3 * d, values, keys_t);
  pack_depth(qkv + 2 * d, 3 * d, N, E, values, channel_row);
  for (int64_t begin = 0; begin < N; begin += plan.tile) {
    const int64_t rows = std::min(plan.tile, N - begin);
    pack_rows(qkv + begin * 3 * d, 3 * d, rows, round_up(rows, kPadRows), E, queries, channel_row);
    product<Word>(rows, words<Word>(E), N, {queries, channel_row, 1}, keys_t, score_row, scores, score_row, false);
    float factors[AttentionPlan::kTile];
    for (int64_t row = 0; row < rows; row++) {
      const Softmax softmax = softmax_row(scores + row * score_row, plan.scale * kLog2e, N, p + row * score_row);
      factors[row] = 1 / softmax.sum;
      if (lse) lse[begin + row] = (softmax.max + std::log2(softmax.sum)) * kLn2;
    }
    product<Word>(rows, words<Word>(N), E, {p, score_row, 1}, values, channel_row, sums, channel_row, false);
    for (int64_t row = 0; row < rows; row++) unpack_row(sums + row * channel_row, factors[row], E, out + (begin + row) * d);
  }
}

template <class T, class Word>
void backward_head(const AttentionPlan& plan, const T* grad_out, const T* qkv, const float* lse, T* grad_qkv, Workspace scratch) {
  const int64_t N = plan.tokens, E = plan.width, d = plan.heads * E, score_row = plan.score_row, channel_row = plan.channel_row;
  Word* keys = scratch.take<Word>(plan.rows_size());
  float* grad_k = scratch.take<float>(plan.rows_size());
  float* grad_v = scratch.take<float>(plan.rows_size());
  Word* keys_t = scratch.take<Word>(plan.columns_size());
  Word* values_t = scratch.take<Word>(plan.columns_size());
  Word* queries = scratch.take<Word>(plan.tile_size());
  Word* grads = scratch.take<Word>(plan.tile_size());
  float* grad_q = scratch.take<float>(plan.tile_size());
  float* p = scratch.take<float>(plan.scores_size());
  float* ds = scratch.take<float>(plan.scores_size());
  // Packed f32 serves in products along the channels and along the tokens alike; pairs are packed for each.
  constexpr bool kPairs = std::is_same<Word, Pair>::value;
  Word* queries_depth = kPairs ? scratch.take<Word>(plan.tile_size()) : queries;
  Word* grads_depth = kPairs ? scratch.take<Word>(plan.tile_size()) : grads;

  pack_columns(plan, qkv + 2 * d, 3 * d, keys, values_t);
  pack_columns(plan, qkv + d, 3 * d, keys, keys_t);
  if (kPairs) pack_depth(qkv + d, 3 * d, N, E, keys, channel_row);
  for (int64_t begin = 0; begin < N; begin += plan.tile) {
    const int64_t rows = std::min(plan.tile, N - begin), padded_rows = round_up(rows, kPadRows);
    const T *q = qkv + begin * 3 * d, *g = grad_out + begin * d;
    pack_rows(q, 3 * d, rows, padded_rows, E, queries, channel_row);
    pack_rows(g, d, rows, padded_rows, E, grads, channel_row);
    if (kPairs) pack_depth(q, 3 * d, rows, E, queries_depth, channel_row);
    if (kPairs) pack_depth(g, d, rows, E, grads_depth, channel_row);
    product<Word>(rows, words<Word>(E), N, {queries, channel_row, 1}, keys_t, score_row, p, score_row, false);
    product<Word>(rows, words<Word>(E), N, {grads, channel_row, 1}, values_t, score_row, ds, score_row, false);
    for (int64_t row = 0; row < rows; row++) {
      softmax_gradient_row(p + row * score_row, ds + row * score_row, plan.scale * kLog2e, lse[begin + row] * kLog2e, N);
    }
    const auto operands = tile_operands(p, ds, rows, N, score_row, keys);
    product<Word>(rows, words<Word>(N), E, operands.ds, keys, channel_row, grad_q, channel_row, false);
    product<Word>(N, words<Word>(rows), E, operands.ds_t, queries_depth, channel_row, grad_k, channel_row, begin > 0);
    product<Word>(N, words<Word>(rows), E, operands.p_t, grads_depth, channel_row, grad_v, channel_row, begin > 0);
    for (int64_t row = 0; row < rows; row++) {
      unpack_row(grad_q + row * channel_row, plan.scale, E, grad_qkv + (begin + row) * 3 * d);
    }
  }
  for (int64_t row = 0; row < N; row++) {
    unpack_row(grad_k + row * channel_row, plan.scale, E, grad_qkv + row * 3 * d + d);
    unpack_row(grad_v + row * channel_row, 1, E, grad_qkv + row * 3 * d + 2 * d);
  }
}

// Calls head(item, scratch) for each image and head. A worker has scratch memory of its own and takes one head after the other.
template <class Head>
void for_each_head(const Cpu& cpu, const AttentionPlan& plan, Workspace scratch, int64_t bytes, const Head& head) {
  std::atomic<int64_t> next{0};
  parallel_items(cpu, plan.workers(cpu), [&](int64_t worker) {
    for (int64_t item = next++; item < plan.images * plan.heads; item = next++) {
      head(item, Workspace{scratch.data + worker * bytes, bytes});
    }
  });
}

template <class T, class Word>
void forward(const Cpu& cpu, const AttentionForward& k, Workspace scratch) {
  const AttentionPlan plan(k.qkv, k.heads, k.scale);
  for_each_head(cpu, plan, scratch, plan.forward_bytes(), [&](int64_t item, Workspace mine) {
    float* lse = k.lse ? k.lse.as<float>() + item * plan.tokens : nullptr;
    forward_head<T, Word>(plan, head_of<T>(k.qkv, plan, item), head_of<T>(k.out, plan, item), lse, mine);
  });
}

template <class T, class Word>
void backward(const Cpu& cpu, const AttentionBackward& k, Workspace scratch) {
  const AttentionPlan plan(k.qkv, k.heads, k.scale);
  for_each_head(cpu, plan, scratch, plan.backward_bytes(), [&](int64_t item, Workspace mine) {
    backward_head<T, Word>(plan, head_of<T>(k.grad_out, plan, item), head_of<T>(k.qkv, plan, item),
                           k.lse.as<float>() + item * plan.tokens, head_of<T>(k.grad_qkv, plan, item), mine);
  });
}

void attention_forward(const Cpu& cpu, const AttentionForward& k, Workspace scratch) {
  if (k.qkv.dtype == DType::f32) return forward<float, float>(cpu, k, scratch);
#if SIDETUNE_PAIRS
  if (has_pairs()) return forward<bf16_t, Pair>(cpu, k, scratch);
#endif
  forward<bf16_t, float>(cpu, k, scratch);
}
void attention_backward(const Cpu& cpu, const AttentionBackward& k, Workspace scratch) {
  if (k.qkv.dtype == DType::f32) return backward<float, float>(cpu, k, scratch);
#if SIDETUNE_PAIRS
  if (has_pairs()) return backward<bf16_t, Pair>(cpu, k, scratch);
#endif
  backward<bf16_t, float>(cpu, k, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(attention_forward);
HWY_EXPORT(attention_backward);

void run(Cpu& cpu, const AttentionForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(attention_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const AttentionBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(attention_backward)(cpu, k, scratch); }

namespace {

void refuse_batched(AttentionAlgorithm algorithm) {
  if (algorithm == AttentionAlgorithm::batched)
    throw Error(Code::argument, "'algorithm' is 'batched', which is for CUDA devices; a device on the CPU has 'tiled'");
}

}  // namespace

int64_t workspace(Cpu& cpu, const AttentionForward& k) {
  refuse_batched(k.algorithm);
  const AttentionPlan plan(k.qkv, k.heads, k.scale);
  return plan.workers(cpu) * plan.forward_bytes();
}
int64_t workspace(Cpu& cpu, const AttentionBackward& k) {
  refuse_batched(k.algorithm);
  const AttentionPlan plan(k.qkv, k.heads, k.scale);
  return plan.workers(cpu) * plan.backward_bytes();
}

SIDETUNE_CPU_KERNEL(AttentionForward)
SIDETUNE_CPU_KERNEL(AttentionBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
