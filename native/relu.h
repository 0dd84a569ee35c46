// ReLU, element by element:
//   out = max(x, 0)
// Backward; the slope at 0 is 0, as in PyTorch:
//   gradX = gradOut where out > 0, else 0
// It is out that backward reads, not x: the layer behind keeps it anyway.
#pragma once

#include "fields.h"

namespace sidetune {

struct ReluForward {
  Tensor x, out;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "...", f32 | bf16);
    field.out("out", out, "...", like("x"));
  }
  double flops() const { return 1.0 * x.size(); }
};

struct ReluBackward {
  Tensor grad_out, out, grad_x;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "...", f32 | bf16);
    field.in("out", out, "...", like("grad_out"));
    field.out("grad_x", grad_x, "...", like("grad_out")).optional();
  }
  double flops() const { return 1.0 * out.size(); }
};

}  // namespace sidetune
