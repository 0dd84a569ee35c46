// The MLP of a transformer block with frozen weights, on rows of tokens, in one call:
//   pre = x W₁ᵀ + b₁      out = GELU(pre) W₂ᵀ + b₂ + residual          W₁ [H, I], W₂ [O, H], x [..., I], out [..., O]
// Backward, with g = gradOut (the gradient of residual is gradOut itself):
//   gradX = ((g W₂) ∘ GELU'(pre)) W₁
// Saved for backward: pre. Neither GELU(pre) nor its gradient, each H numbers a row, ever exists for more than kMlpRows rows:
// both products go through the rows step by step, and the hidden numbers between them stay in scratch memory of a fixed size.
//
// Weights are packed (native/linear.h): for x Wᵀ in forward, i8 too, and for g W in backward. Layers that are trained, or that a
// method looks into, are two calls of the linear family. Sums and rounding as there; the result does not depend on the number of
// threads.
#pragma once

#include "fields.h"

namespace sidetune {

struct MlpForward {
  Tensor x, weight1, bias1, weight2, bias2, residual, out, pre_activation;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "... I", f32 | bf16);
    field.in("weight1", weight1, "H I", f32 | bf16 | i8).packed();
    field.in("bias1", bias1, "H", f32).optional();
    field.in("weight2", weight2, "O H", f32 | bf16 | i8).packed();
    field.in("bias2", bias2, "O", f32).optional();
    field.in("residual", residual, "... O", like("x")).optional();
    field.out("out", out, "... O", like("x")).may_alias("residual");
    field.saved("pre_activation", pre_activation, "... H", like("x"));
  }
  void check(const char* kernel) const;
  double flops() const { return 2.0 * x.rows() * weight1.dim(0) * (x.dim(-1) + weight2.dim(0)); }
};

struct MlpBackward {
  Tensor grad_out, pre_activation, weight1, weight2, grad_x;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "... O", f32 | bf16);
    field.in("pre_activation", pre_activation, "... H", like("grad_out"));
    field.in("weight1", weight1, "H I", f32 | bf16).packed();
    field.in("weight2", weight2, "O H", f32 | bf16).packed();
    field.out("grad_x", grad_x, "... I", like("grad_out"));
  }
  void check(const char* kernel) const;
  double flops() const { return 2.0 * grad_out.rows() * weight1.dim(0) * (grad_out.dim(-1) + weight1.dim(1)); }
};

}  // namespace sidetune
