// Small element by element kernels, each one pass over memory. Arithmetic is f32, results are rounded once to the dtype of what
// is written.
//   add            out = a + b                              its gradient is gradOut for both: no kernel
//   add into       target += x                              sums the gradients of a tensor that several ops read
//   scale          out = factor x                           its own backward
//   cast           out = x in the dtype of out              its own backward; pixels (u8) become 0 … 255
//   fill           out = value
//   residual add   out_b = x_b + rowScale_b branch_b        stochastic depth (drop path; Huang et al., arXiv 1603.09382):
//   rowScale is 0 for the
//                                                           images that skip the branch and 1/keep for the others
//   backward       gradBranch_b = rowScale_b gradOut_b      and gradOut itself for x
// An image whose rowScale is 0 reads neither branch nor gradOut, so what overflowed in there stays in there.
#pragma once

#include "fields.h"

namespace sidetune {

struct AddForward {
  Tensor a, b, out;

  template <class Fields>
  void fields(Fields& field) {
    field.in("a", a, "...", f32 | bf16);
    field.in("b", b, "...", like("a"));
    field.out("out", out, "...", like("a"));
  }
  double flops() const { return 1.0 * a.size(); }
};

struct AddInto {
  Tensor target, x;

  template <class Fields>
  void fields(Fields& field) {
    field.in_out("target", target, "...", f32 | bf16);
    field.in("x", x, "...", like("target"));
  }
  double flops() const { return 1.0 * x.size(); }
};

struct Scale {
  Tensor x, out;
  float factor = 1;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "...", f32 | bf16);
    field.out("out", out, "...", like("x"));
    field.option("factor", factor, finite()).required();
  }
  double flops() const { return 1.0 * x.size(); }
};

struct Cast {
  Tensor x, out;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "...", f32 | bf16 | u8);
    field.out("out", out, "...", f32 | bf16);
  }
  double flops() const { return 0; }
};

struct Fill {
  Tensor out;
  float value = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.out("out", out, "...", f32 | bf16);
    field.option("value", value, finite()).required();
  }
  double flops() const { return 0; }
};

struct ResidualAddForward {
  Tensor x, branch, row_scale, out;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "B N d", f32 | bf16);
    field.in("branch", branch, "B N d", like("x"));
    field.in("row_scale", row_scale, "B", f32);
    field.out("out", out, "B N d", like("x"));
  }
  double flops() const { return 2.0 * x.size(); }
};

struct ResidualAddBackward {
  Tensor grad_out, row_scale, grad_branch;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "B N d", f32 | bf16);
    field.in("row_scale", row_scale, "B", f32);
    field.out("grad_branch", grad_branch, "B N d", like("grad_out")).optional();
  }
  double flops() const { return 1.0 * grad_out.size(); }
};

}  // namespace sidetune
