// Layer normalisation over the last axis, row by row (Ba et al., arXiv 1607.06450):
//   mean = Σ x / d      rstd = 1/√(Σ (x − mean)² / d + eps)      xhat = (x − mean) rstd      out = xhat ∘ weight + bias
// Backward, with g = gradOut ∘ weight and means over the row:
//   gradX = rstd (g − mean(g) − xhat mean(g ∘ xhat)) + residual       gradWeight += Σ_rows gradOut ∘ xhat       gradBias +=
//   Σ_rows gradOut
// `residual` is a gradient that x already has from elsewhere (the skip connection around the block): adding it here saves a pass
// over memory. Saved for backward: mean and rstd, two f32 numbers a row; xhat is rebuilt from x. Or, where nobody else keeps x in
// bf16, instead of x and mean xhat itself in bytes, xhat ≈ (byte − 128) · step with step = max |xhat| / 127 of the row. In gradX
// the bytes serve in the last term alone, the part of g along xhat, which is small beside g: for weights that are not trained.
// Statistics are f32 and computed in two passes over the row in registers and cache. Gradients of parameters are added to what is
// there, the gradient of x is written. The result does not depend on the number of threads: rows are summed in fixed groups and
// the groups in order.
//
// Where a side layer reads the rows that are normalised (low_rank.h), LayerNormProject does both while a row is at hand:
//   u = x a                                             a [d, r], r small
// Backward of the two is their own: LayerNormBackward, and LowRankProjectBackward with x for z.
#pragma once

#include "fields.h"

namespace sidetune {

struct LayerNormForward {
  Tensor x, weight, bias, out, mean, rstd, xhat, step;
  float eps = 1e-6f;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "... d", f32 | bf16);
    field.in("weight", weight, "d", f32);
    field.in("bias", bias, "d", f32);
    field.out("out", out, "... d", like("x"));
    field.saved("mean", mean, "...", f32);
    field.saved("rstd", rstd, "...", f32);
    field.saved("xhat", xhat, "... d", u8);
    field.saved("step", step, "...", f32);
    field.option("eps", eps, positive());
  }
  void check(const char* kernel) const;  // xhat and step: both or none
  double flops() const { return 8.0 * x.size(); }
};

struct LayerNormProjectForward {
  Tensor x, weight, bias, a, out, u, mean, rstd;
  float eps = 1e-6f;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "... d", f32 | bf16);
    field.in("weight", weight, "d", f32);
    field.in("bias", bias, "d", f32);
    field.in("a", a, "d r", f32);
    field.out("out", out, "... d", like("x"));
    field.out("u", u, "... r", f32);
    field.saved("mean", mean, "...", f32);
    field.saved("rstd", rstd, "...", f32);
    field.option("eps", eps, positive());
  }
  double flops() const { return (8.0 + 2.0 * a.dim(1)) * x.size(); }
};

struct LayerNormBackward {
  Tensor grad_out, x, weight, mean, rstd, xhat, step, residual, grad_x, grad_weight, grad_bias;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "... d", f32 | bf16);
    field.in("x", x, "... d", like("grad_out")).optional();
    field.in("weight", weight, "d", f32);
    field.in("mean", mean, "...", f32).optional();
    field.in("rstd", rstd, "...", f32);
    field.in("xhat", xhat, "... d", u8).optional();
    field.in("step", step, "...", f32).optional();
    field.in("residual", residual, "... d", like("grad_out")).optional();
    field.out("grad_x", grad_x, "... d", like("grad_out")).may_alias("residual").optional();
    field.in_out("grad_weight", grad_weight, "d", f32).optional();
    field.in_out("grad_bias", grad_bias, "d", f32).optional();
  }
  void check(const char* kernel) const;  // x and mean, or xhat and step
  double flops() const { return 14.0 * grad_out.size(); }
};

}  // namespace sidetune
