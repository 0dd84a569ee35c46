// The MLP of a transformer block with frozen weights, on rows of tokens, in one call:
//   pre = x W₁ᵀ + b₁      out = GELU(pre) W₂ᵀ + b₂ + residual          W₁ [H, I], W₂ [O, H], x [..., I], out [..., O]
// Backward, with g = gradOut (the gradient of residual is gradOut itself):
//   gradX = ((g W₂) ∘ slope) W₁
// Saved for backward: slope = GELU'(pre), which is all that backward wants of pre. Beside bf16 tokens it is kept in bytes, none
// off by more than 0.0026 (native/gelu_slope.h), 0.0014 in the mean square. (g W₂) ∘ slope is rounded to bf16 before the second
// product anyhow, by as much where slope is near 1. In all, gradX in bf16 is off by 0.3 % in the mean square, with pre in bf16
// instead it would be by 0.24 %; the tolerance of tests is 12 roundings, and 2 are the most that was seen.
// Neither GELU(pre) nor its gradient, each H numbers a row, ever exists for more than a step of rows:
// both products go through the rows step by step, and the hidden numbers between them stay in scratch memory of a fixed size.
//
// Where nothing but the mean over an image's tokens n ≥ P is read (P prefix tokens, the head's pool), MlpMean takes it before the
// second product, which then has a row an image instead of one a token, N tokens to an image:
//   out_b = mean_n GELU(pre_{b,n}) W₂ᵀ + b₂               x [B, N, I], out [B, O]
//   gradX_{b,n} = ((gradOut_b W₂ / (N − P)) ∘ slope_{b,n}) W₁ for n ≥ P, else 0
// Means are rounded to the dtype of x. Here a step is of whole images.
//
// Weights are packed (native/linear.h): for x Wᵀ in forward, i8 too, and for g W in backward. Layers that are trained, or that a
// method looks into, are two calls of the linear family. Sums, rounding and what the result does not depend on are as there.
#pragma once

#include <algorithm>
#include <cstddef>

#include "backend.h"
#include "fields.h"
#include "linear.h"
#include "pool.h"

namespace sidetune {

struct MlpForward {
  Tensor x, weight1, bias1, weight2, bias2, residual, out, slope;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "... I", f32 | bf16);
    field.in("weight1", weight1, "H I", f32 | bf16 | i8).packed();
    field.in("bias1", bias1, "H", f32).optional();
    field.in("weight2", weight2, "O H", f32 | bf16 | i8).packed();
    field.in("bias2", bias2, "O", f32).optional();
    field.in("residual", residual, "... O", like("x")).optional();
    field.out("out", out, "... O", like("x")).may_alias("residual");
    field.saved("slope", slope, "... H", bytes_like("x"));
  }
  void check(const char* kernel) const;
  double flops() const { return 2.0 * x.rows() * weight1.dim(0) * (x.dim(-1) + weight2.dim(0)); }
};

struct MlpBackward {
  Tensor grad_out, slope, weight1, weight2, grad_x;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "... O", f32 | bf16);
    field.in("slope", slope, "... H", bytes_like("grad_out"));
    field.in("weight1", weight1, "H I", f32 | bf16).packed();
    field.in("weight2", weight2, "O H", f32 | bf16).packed();
    field.out("grad_x", grad_x, "... I", like("grad_out"));
  }
  void check(const char* kernel) const;
  double flops() const { return 2.0 * grad_out.rows() * weight1.dim(0) * (grad_out.dim(-1) + weight1.dim(1)); }
};

struct MlpMeanForward {
  Tensor x, weight1, bias1, weight2, bias2, out, slope;
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "B N I", f32 | bf16);
    field.in("weight1", weight1, "H I", f32 | bf16 | i8).packed();
    field.in("bias1", bias1, "H", f32).optional();
    field.in("weight2", weight2, "O H", f32 | bf16 | i8).packed();
    field.in("bias2", bias2, "O", f32).optional();
    field.out("out", out, "B O", like("x"));
    field.saved("slope", slope, "B N H", bytes_like("x"));
    field.option("prefix_tokens", prefix_tokens, at_least(0));
  }
  void check(const char* kernel) const;
  double flops() const { return 2.0 * weight1.dim(0) * (x.size() + x.dim(0) * weight2.dim(0)); }
};

struct MlpMeanBackward {
  Tensor grad_out, slope, weight1, weight2, grad_x;
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "B O", f32 | bf16);
    field.in("slope", slope, "B N H", bytes_like("grad_out"));
    field.in("weight1", weight1, "H I", f32 | bf16).packed();
    field.in("weight2", weight2, "O H", f32 | bf16).packed();
    field.out("grad_x", grad_x, "B N I", like("grad_out"));
    field.option("prefix_tokens", prefix_tokens, at_least(0));
  }
  void check(const char* kernel) const;
  double flops() const { return 2.0 * weight1.dim(0) * (grad_out.size() + grad_x.size()); }
};

// What a backend runs: for rows [begin, begin + count) the two layers' calls in their order, with `hidden` between them.
struct MlpForwardStep {
  LinearForward first, second;

  MlpForwardStep(const MlpForward& k, int64_t begin, int64_t count, std::byte* hidden);
  static const Tensor& rows(const MlpForward& k) { return k.x; }
};
struct MlpBackwardStep {
  LinearBackward first, second;

  MlpBackwardStep(const MlpBackward& k, int64_t begin, int64_t count, std::byte* hidden);
  static const Tensor& rows(const MlpBackward& k) { return k.grad_out; }
};

namespace mlp {

// [images, tokens, width]
inline Tensor images(DType dtype, int64_t images, int64_t tokens, int64_t width, std::byte* data) {
  Tensor result;
  result.dtype = dtype, result.rank = 3, result.data = data;
  result.shape[0] = images, result.shape[1] = tokens, result.shape[2] = width;
  return result;
}

inline Tensor matrix(DType dtype, int64_t rows, int64_t columns, std::byte* data) {
  Tensor result;
  result.dtype = dtype, result.rank = 2, result.shape[0] = rows, result.shape[1] = columns, result.data = data;
  return result;
}

// Rows [begin, begin + count) of a tensor; of an absent one, an absent one.
inline Tensor rows_of(const Tensor& tensor, int64_t begin, int64_t count) {
  if (!tensor) return {};
  const int64_t width = tensor.dim(-1);
  return matrix(tensor.dtype, count, width, tensor.as<std::byte>() + begin * width * size_of(tensor.dtype));
}

template <class Step, class Arguments>
int64_t hidden_bytes(const Arguments& k, int64_t size) {
  return Workspace::aligned<std::byte>(size * k.weight1.dim(0) * size_of(Step::rows(k).dtype));
}

// Steps of `size` rows: run(call, scratch) runs a call of linear's, workspace(call) tells its scratch.
template <class Step, class Arguments, class Run>
void run_steps(const Arguments& k, int64_t size, Workspace scratch, const Run& run) {
  const int64_t rows = Step::rows(k).rows();
  auto* hidden = scratch.take<std::byte>(hidden_bytes<Step>(k, size));
  for (int64_t begin = 0; begin < rows; begin += size) {
    const Step step(k, begin, std::min(size, rows - begin), hidden);
    run(step.first, scratch);
    run(step.second, scratch);
  }
}
template <class Step, class Arguments, class Scratch>
int64_t steps_workspace(const Arguments& k, int64_t size, const Scratch& workspace) {
  std::byte there{};  // hidden numbers have a place; no more is asked
  const Step step(k, 0, std::min(size, Step::rows(k).rows()), &there);
  return hidden_bytes<Step>(k, size) + std::max(workspace(step.first), workspace(step.second));
}

}  // namespace mlp

inline MlpForwardStep::MlpForwardStep(const MlpForward& k, int64_t begin, int64_t count, std::byte* data) {
  const Tensor hidden = mlp::matrix(k.x.dtype, count, k.weight1.dim(0), data);
  first.x = mlp::rows_of(k.x, begin, count), first.weight = k.weight1, first.bias = k.bias1, first.out = hidden;
  first.slope = mlp::rows_of(k.slope, begin, count), first.activation = Activation::gelu;
  second.x = hidden, second.weight = k.weight2, second.bias = k.bias2;
  second.residual = mlp::rows_of(k.residual, begin, count), second.out = mlp::rows_of(k.out, begin, count);
}

inline MlpBackwardStep::MlpBackwardStep(const MlpBackward& k, int64_t begin, int64_t count, std::byte* data) {
  const Tensor hidden = mlp::matrix(k.grad_out.dtype, count, k.weight1.dim(0), data);
  first.grad_out = mlp::rows_of(k.grad_out, begin, count), first.weight = k.weight2, first.grad_x = hidden;
  first.x_slope = mlp::rows_of(k.slope, begin, count);
  second.grad_out = hidden, second.weight = k.weight1, second.grad_x = mlp::rows_of(k.grad_x, begin, count);
}

// The calls of MlpMean: `first` and `second` for images [begin, begin + count); before or behind all of them `rows`, which works
// on a row an image.
struct MlpMeanForwardStep {
  LinearForward first;
  PoolForward second;

  MlpMeanForwardStep(const MlpMeanForward& k, int64_t begin, int64_t count, std::byte* hidden, std::byte* means) {
    const int64_t N = k.x.dim(1), H = k.weight1.dim(0);
    first.x = mlp::rows_of(k.x, begin * N, count * N), first.weight = k.weight1, first.bias = k.bias1;
    first.out = mlp::matrix(k.x.dtype, count * N, H, hidden), first.activation = Activation::gelu;
    first.slope = mlp::rows_of(k.slope, begin * N, count * N);
    second.x = mlp::images(k.x.dtype, count, N, H, hidden);
    second.out = mlp::rows_of(mlp::matrix(k.x.dtype, k.x.dim(0), H, means), begin, count);
    second.mode = PoolMode::mean, second.prefix_tokens = k.prefix_tokens;
  }
  static LinearForward rows(const MlpMeanForward& k, std::byte* means) {
    LinearForward call;
    call.x = mlp::matrix(k.x.dtype, k.x.dim(0), k.weight1.dim(0), means);
    call.weight = k.weight2, call.bias = k.bias2, call.out = k.out;
    return call;
  }
  static constexpr bool rows_come_first = false;
  static const Tensor& tokens(const MlpMeanForward& k) { return k.x; }
};
struct MlpMeanBackwardStep {
  PoolBackward first;
  LinearBackward second;

  MlpMeanBackwardStep(const MlpMeanBackward& k, int64_t begin, int64_t count, std::byte* hidden, std::byte* means) {
    const int64_t N = k.grad_x.dim(1), H = k.weight1.dim(0);
    const DType dtype = k.grad_x.dtype;
    first.grad_out = mlp::rows_of(mlp::matrix(dtype, k.grad_x.dim(0), H, means), begin, count);
    first.grad_x = mlp::images(dtype, count, N, H, hidden), first.slope = mlp::rows_of(k.slope, begin * N, count * N);
    first.mode = PoolMode::mean, first.prefix_tokens = k.prefix_tokens;
    second.grad_out = mlp::matrix(dtype, count * N, H, hidden), second.weight = k.weight1;
    second.grad_x = mlp::rows_of(k.grad_x, begin * N, count * N);
  }
  static LinearBackward rows(const MlpMeanBackward& k, std::byte* means) {
    LinearBackward call;
    call.grad_out = k.grad_out, call.weight = k.weight2;
    call.grad_x = mlp::matrix(k.grad_out.dtype, k.grad_out.dim(0), k.weight1.dim(0), means);
    return call;
  }
  static constexpr bool rows_come_first = true;
  static const Tensor& tokens(const MlpMeanBackward& k) { return k.grad_x; }
};

namespace mlp {

// As run_steps and steps_workspace, in steps of `size` images.
template <class Step, class Arguments, class Run>
void run_mean_steps(const Arguments& k, int64_t size, Workspace scratch, const Run& run) {
  const Tensor& tokens = Step::tokens(k);
  const int64_t images = tokens.dim(0), row_bytes = k.weight1.dim(0) * size_of(tokens.dtype);
  auto* means = scratch.take<std::byte>(images * row_bytes);
  auto* hidden = scratch.take<std::byte>(size * tokens.dim(1) * row_bytes);
  if (Step::rows_come_first) run(Step::rows(k, means), scratch);
  for (int64_t begin = 0; begin < images; begin += size) {
    const Step step(k, begin, std::min(size, images - begin), hidden, means);
    run(step.first, scratch);
    run(step.second, scratch);
  }
  if (!Step::rows_come_first) run(Step::rows(k, means), scratch);
}
template <class Step, class Arguments, class Scratch>
int64_t mean_steps_workspace(const Arguments& k, int64_t size, const Scratch& workspace) {
  const Tensor& tokens = Step::tokens(k);
  const int64_t row_bytes = k.weight1.dim(0) * size_of(tokens.dtype);
  std::byte there{};
  const Step step(k, 0, std::min(size, tokens.dim(0)), &there, &there);
  return Workspace::aligned<std::byte>(tokens.dim(0) * row_bytes) +
         Workspace::aligned<std::byte>(size * tokens.dim(1) * row_bytes) +
         std::max({workspace(step.first), workspace(step.second), workspace(Step::rows(k, &there))});
}

}  // namespace mlp

}  // namespace sidetune
