// Swish with a slope (Ramachandran et al., arXiv 1710.05941), element by element: a ReLU whose corner is 1/beta wide.
//   out = x σ(beta x)
// Backward:
//   gradX = gradOut ∘ σ(beta x) (1 + beta x (1 − σ(beta x)))
// beta = 100 is θ of DTL (arXiv 2312.07856, eq. 9); beta = 1 is SiLU. Nothing is saved but x. Where beta x overflows, the result
// is x or 0 and the slope 1 or 0.
#pragma once

#include "fields.h"

namespace sidetune {

struct SwishForward {
  Tensor x, out;
  float beta = 1;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "...", f32 | bf16);
    field.out("out", out, "...", like("x"));
    field.option("beta", beta, finite());
  }
  double flops() const { return 5.0 * x.size(); }
};

struct SwishBackward {
  Tensor grad_out, x, grad_x;
  float beta = 1;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "...", f32 | bf16);
    field.in("x", x, "...", like("grad_out"));
    field.out("grad_x", grad_x, "...", like("grad_out")).optional();
    field.option("beta", beta, finite());
  }
  double flops() const { return 9.0 * x.size(); }
};

}  // namespace sidetune
