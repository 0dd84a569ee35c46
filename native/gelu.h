// GELU in the erf form (Hendrycks and Gimpel, arXiv 1606.08415), element by element; Φ and φ are the normal distribution and its
// density:
//   out = x Φ(x)
// Backward:
//   gradX = gradOut ∘ (Φ(x) + x φ(x))
// Nothing is saved but x. No tanh approximation: its error (up to 5e-4) would show against pretrained weights. The linear family
// fuses the same function behind its product; this family is for a GELU that stands alone.
#pragma once

#include "fields.h"

namespace sidetune {

struct GeluForward {
  Tensor x, out;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "...", f32 | bf16);
    field.out("out", out, "...", like("x"));
  }
  double flops() const { return 35.0 * x.size(); }
};

struct GeluBackward {
  Tensor grad_out, x, grad_x;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "...", f32 | bf16);
    field.in("x", x, "...", like("grad_out"));
    field.out("grad_x", grad_x, "...", like("grad_out")).optional();
  }
  double flops() const { return 38.0 * x.size(); }
};

}  // namespace sidetune
