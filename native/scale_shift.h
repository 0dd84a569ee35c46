// A scale and a shift for each channel (SSF, Lian et al., arXiv 2210.08823), over the last axis:
//   out = x ∘ scale + shift
// Backward, with sums over rows:
//   gradX = gradOut ∘ scale       gradScale += Σ_rows gradOut ∘ x       gradShift += Σ_rows gradOut
// One pass over gradOut and x gives all three. x is needed for gradScale alone, scale for gradX alone. Gradients of parameters
// are added to what is there, the gradient of x is written. The result does not depend on the number of threads or
// multiprocessors: rows are summed in fixed groups and the groups in order.
#pragma once

#include "fields.h"

namespace sidetune {

struct ScaleShiftForward {
  Tensor x, scale, shift, out;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "... d", f32 | bf16);
    field.in("scale", scale, "d", f32);
    field.in("shift", shift, "d", f32);
    field.out("out", out, "... d", like("x"));
  }
  double flops() const { return 2.0 * x.size(); }
};

struct ScaleShiftBackward {
  Tensor grad_out, x, scale, grad_x, grad_scale, grad_shift;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "... d", f32 | bf16);
    field.in("x", x, "... d", like("grad_out")).optional();
    field.in("scale", scale, "d", f32).optional();
    field.out("grad_x", grad_x, "... d", like("grad_out")).optional();
    field.in_out("grad_scale", grad_scale, "d", f32).optional();
    field.in_out("grad_shift", grad_shift, "d", f32).optional();
  }
  void check(const char* kernel) const;  // gradX needs scale, gradScale needs x
  double flops() const { return 1.0 * ((grad_x ? 1 : 0) + (grad_scale ? 2 : 0) + (grad_shift ? 1 : 0)) * grad_out.size(); }
};

}  // namespace sidetune
