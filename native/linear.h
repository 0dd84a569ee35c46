// The linear layer, on rows of tokens, with what usually stands behind it in a transformer block:
//   pre = x Wᵀ + bias      out = pre,  GELU(pre)  or  pre + residual          W [O, I], x [..., I], out [..., O]
// GELU is the erf form, v Φ(v). Backward, with g = gradOut, or gradOut ∘ GELU'(pre) behind a GELU:
//   gradX = g W + residual        gradWeight += gᵀ x        gradBias += Σ_rows g
// Backward's residual is a gradient that x already has from elsewhere; forward's has gradOut itself. Where x itself came out of a
// GELU, xSlope takes its derivative along: gradX = (g W) ∘ xSlope, which `slope` of the call that made x was
// (native/gelu_slope.h; mlp's way). Saved for backward: pre, and only behind a GELU. x serves gradWeight alone and W gradX alone:
// a frozen layer keeps no x.
//
// LinearAdd adds a layer of few inputs, such as an adapter of low rank, into the columns [column, column + O) of y, in place:
//   y[..., column : column + O] += x Wᵀ
//   gradX = g W        gradWeight += gᵀ x        with g that window of gradOut; the gradient of y is gradOut itself
// The window is read and written once, y beside it is not touched; the sum is added unrounded and the result rounded once.
//
// A weight is plain, packed (for x Wᵀ) or packed_transposed (for g W): the order in which the GEMM reads it. LinearPack moves a
// weight between them; a plain weight is packed into scratch at each call, which is the way of weights that are being trained. x
// in bf16 takes such a weight in f32, too, and rounds it. On CUDA all three are the plain rows.
//
// A packed weight in i8 has one scale for each output; each row of x is rounded to 8 bits with a scale of its own on the way
// (native/cpu/int8.h has the formulas). For layers that no gradient flows through, on the CPU.
//
// Sums are f32 (of i8: exact), rounded once at the end; epilogues see them unrounded. Operands of a product have the dtype of x;
// on CUDA so has a bias without a GELU behind it, which is rounded where x is bf16. The result depends neither on the number of
// threads nor on chance: see native/cpu/gemm.h and native/cuda/gemm.cuh for products; rows of gradBias are summed in fixed
// groups. Backward walks the rows in steps, and on CUDA so does a GELU: scratch memory does not grow with the batch.
#pragma once

#include "fields.h"

namespace sidetune {

enum class Activation : uint8_t { none, gelu };

struct LinearForward {
  Tensor x, weight, bias, residual, out, pre_activation;
  Tensor slope;  // GELU'(pre), instead of pre: no field, mlp alone asks for it
  Activation activation = Activation::none;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "... I", f32 | bf16);
    field.in("weight", weight, "O I", f32 | bf16 | i8).packed();
    field.in("bias", bias, "O", f32).optional();
    field.in("residual", residual, "... O", like("x")).optional();
    field.choice("activation", activation, "none gelu");
    field.out("out", out, "... O", like("x")).may_alias("residual");
    field.saved("pre_activation", pre_activation, "... O", like("x"));
  }
  void check(const char* kernel) const;
  double flops() const { return 2.0 * x.size() * weight.dim(0); }
};

struct LinearBackward {
  Tensor grad_out, x, weight, pre_activation, x_slope, residual, grad_x, grad_weight, grad_bias;
  Activation activation = Activation::none;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "... O", f32 | bf16);
    field.in("x", x, "... I", like("grad_out")).optional();
    field.in("weight", weight, "O I", f32 | bf16).packed().optional();
    field.in("pre_activation", pre_activation, "... O", like("grad_out")).optional();
    field.in("x_slope", x_slope, "... I", bytes_like("grad_out")).optional();
    field.in("residual", residual, "... I", like("grad_out")).optional();
    field.choice("activation", activation, "none gelu");
    field.out("grad_x", grad_x, "... I", like("grad_out")).may_alias("residual").optional();
    field.in_out("grad_weight", grad_weight, "O I", f32).optional();
    field.in_out("grad_bias", grad_bias, "O", f32).optional();
  }
  void check(const char* kernel) const;
  double flops() const {
    const double product = 2.0 * grad_out.size();
    return (grad_x ? product * weight.dim(1) : 0) + (grad_weight ? product * x.dim(-1) : 0);
  }
};

struct LinearAddForward {
  Tensor y, x, weight;
  int64_t column = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.option("column", column, at_least(0));
    field.in_out("y", y, "... W", f32 | bf16);
    field.in("x", x, "... I", like("y"));
    field.in("weight", weight, "O I", f32 | bf16).packed();
  }
  void check(const char* kernel) const;
  int64_t untouched_bytes() const { return 2 * (y.dim(-1) - weight.dim(0)) * y.rows() * size_of(y.dtype); }
  double flops() const { return 2.0 * x.size() * weight.dim(0); }
};

struct LinearAddBackward {
  Tensor grad_out, x, weight, grad_x, grad_weight;
  int64_t column = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.option("column", column, at_least(0));
    field.in("grad_out", grad_out, "... W", f32 | bf16);
    field.in("x", x, "... I", like("grad_out")).optional();
    field.in("weight", weight, "O I", f32 | bf16).packed().optional();
    field.out("grad_x", grad_x, "... I", like("grad_out")).optional();
    field.in_out("grad_weight", grad_weight, "O I", f32).optional();
  }
  void check(const char* kernel) const;
  int64_t outputs() const { return weight ? weight.dim(0) : grad_weight.dim(0); }
  int64_t untouched_bytes() const { return (grad_out.dim(-1) - outputs()) * grad_out.rows() * size_of(grad_out.dtype); }
  double flops() const {
    const double product = 2.0 * grad_out.rows() * outputs();
    return (grad_x ? product * weight.dim(1) : 0) + (grad_weight ? product * grad_weight.dim(1) : 0);
  }
};

// Refuses a weight that cannot be the right-hand side of a product with `rows`: of another layout than plain or `packed`, or of
// another dtype.
void check_weight(const char* kernel, const char* name, const Tensor& weight, Layout packed, const Tensor& rows,
                  const char* rows_name);

// out = weight, in the layout and dtype of out.
struct LinearPack {
  Tensor weight, out;

  template <class Fields>
  void fields(Fields& field) {
    field.in("weight", weight, "O I", f32 | bf16 | i8).packed();
    field.out("out", out, "O I", f32 | bf16 | i8).packed();
  }
  void check(const char* kernel) const;
  double flops() const { return 0; }
};

}  // namespace sidetune
