// A learned gate between two streams (ladder side tuning, Sung et al., arXiv 2206.06522):
//   out = mu a + (1 − mu) b          mu = σ(alpha / temperature), one number for all
// Backward:
//   gradA = mu gradOut     gradB = (1 − mu) gradOut     gradAlpha += mu (1 − mu) / temperature · Σ gradOut ∘ (a − b)
// One pass over gradOut, a and b gives all three; a and b are needed for gradAlpha alone. gradAlpha is added to what is there,
// the gradients of a and b are written. Numbers are summed in f32, in groups of a fixed size and the groups in a fixed order, so
// the result does not depend on the number of threads or multiprocessors. 1 − mu is computed as σ(−alpha / temperature), so
// neither side loses digits; far out mu is 1 or 0 and its slope 0.
#pragma once

#include "fields.h"

namespace sidetune {

struct GateForward {
  Tensor a, b, alpha, out;
  float temperature = 1;

  template <class Fields>
  void fields(Fields& field) {
    field.in("a", a, "...", f32 | bf16);
    field.in("b", b, "...", like("a"));
    field.in("alpha", alpha, "1", f32);
    field.out("out", out, "...", like("a"));
    field.option("temperature", temperature, positive());
  }
  double flops() const { return 3.0 * a.size(); }
};

struct GateBackward {
  Tensor grad_out, a, b, alpha, grad_a, grad_b, grad_alpha;
  float temperature = 1;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "...", f32 | bf16);
    field.in("a", a, "...", like("grad_out")).optional();
    field.in("b", b, "...", like("grad_out")).optional();
    field.in("alpha", alpha, "1", f32);
    field.out("grad_a", grad_a, "...", like("grad_out")).optional();
    field.out("grad_b", grad_b, "...", like("grad_out")).optional();
    field.in_out("grad_alpha", grad_alpha, "1", f32).optional();
    field.option("temperature", temperature, positive());
  }
  void check(const char* kernel) const;  // gradAlpha needs a and b

  static constexpr int64_t kGroup = 4096;  // numbers that have one sum
  int64_t groups() const { return (grad_out.size() + kGroup - 1) / kGroup; }
  double flops() const { return 1.0 * ((grad_a ? 1 : 0) + (grad_b ? 1 : 0) + (grad_alpha ? 3 : 0)) * grad_out.size(); }
};

}  // namespace sidetune
