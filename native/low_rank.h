// DTL's side state (arXiv 2312.07856, eq. 5): every block adds a low-rank read of its input z to h, in place.
//   u = z a      h ← h + u c                                        a [d, r], c [r, d], r small
// Undo, so that backward can walk h back instead of keeping a copy per block:
//   h ← h − u c
// Backward, from the gradient of the new h (which is also that of the old h: nothing to compute):
//   gu = gradH cᵀ      gradZ = residual + gu aᵀ      gradA += zᵀ gu      gradC += uᵀ gradH
// `residual` is a gradient that z already has from elsewhere. Saved for backward: u, r numbers a row; z is needed too.
//
// Nobody reads h before the first inject. So the M blocks up to it project their z and are combined at once, in one product of
// inner size M r that writes h and does not read it:
//   u_j = z_j a_j      h = Σ_j u_j c_j
// Backward reads gradH once for all of them, and each z_j once:
//   gradU_j += gradH c_jᵀ      gradC_j += u_jᵀ gradH      gradZ = residual + gradU aᵀ      gradA += zᵀ gradU
//
// u c is rounded the same way going forth and back and meets h in a single addition, so a walk back is off by two roundings of h
// per block at most. Everything is f32 but z and its gradient. Memory is read and written once: what is looked at again is in a
// cache or a GPU's registers by then. Gradients of parameters and of u are added to what is there, gradients of z are
// written. The result does not depend on the number of threads or multiprocessors: rows are summed in fixed groups and the groups
// in order.
#pragma once

#include "fields.h"

namespace sidetune {

struct LowRankAccumulateForward {
  Tensor h, z, a, c, u;
  bool initialize = false;  // h = u c: what h held is not read

  template <class Fields>
  void fields(Fields& field) {
    field.in_out("h", h, "... d", f32);
    field.in("z", z, "... d", f32 | bf16);
    field.in("a", a, "d r", f32);
    field.in("c", c, "r d", f32);
    field.saved("u", u, "... r", f32);
    field.option("initialize", initialize);
  }
  double flops() const { return 4.0 * z.size() * c.dim(0); }
};

struct LowRankUndo {
  Tensor h, u, c;

  template <class Fields>
  void fields(Fields& field) {
    field.in_out("h", h, "... d", f32);
    field.in("u", u, "... r", f32);
    field.in("c", c, "r d", f32);
  }
  double flops() const { return 2.0 * h.size() * c.dim(0); }
};

struct LowRankAccumulateBackward {
  Tensor grad_h, z, a, c, u, residual, grad_z, grad_a, grad_c;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_h", grad_h, "... d", f32);
    field.in("z", z, "... d", f32 | bf16);
    field.in("a", a, "d r", f32);
    field.in("c", c, "r d", f32);
    field.in("u", u, "... r", f32);
    field.in("residual", residual, "... d", like("z")).optional();
    field.out("grad_z", grad_z, "... d", like("z")).may_alias("residual").optional();
    field.in_out("grad_a", grad_a, "d r", f32).optional();
    field.in_out("grad_c", grad_c, "r d", f32).optional();
  }
  double flops() const { return 8.0 * z.size() * c.dim(0); }
};

struct LowRankProjectForward {
  Tensor z, a, u;

  template <class Fields>
  void fields(Fields& field) {
    field.in("z", z, "... d", f32 | bf16);
    field.in("a", a, "d r", f32);
    field.out("u", u, "... r", f32);
  }
  double flops() const { return 2.0 * z.size() * a.dim(1); }
};

struct LowRankProjectBackward {
  Tensor grad_u, z, a, residual, grad_z, grad_a;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_u", grad_u, "... r", f32);
    field.in("z", z, "... d", f32 | bf16);
    field.in("a", a, "d r", f32);
    field.in("residual", residual, "... d", like("z")).optional();
    field.out("grad_z", grad_z, "... d", like("z")).may_alias("residual").optional();
    field.in_out("grad_a", grad_a, "d r", f32).optional();
  }
  double flops() const { return 2.0 * z.size() * a.dim(1) * ((grad_z ? 1 : 0) + (grad_a ? 1 : 0)); }
};

// Lists have one entry for each block.
struct LowRankCombineForward {
  Tensor h;
  TensorList u, c;

  template <class Fields>
  void fields(Fields& field) {
    field.in_out("h", h, "... d", f32);
    field.in("u", u, "... r", f32);
    field.in("c", c, "r d", f32);
  }
  void check(const char* kernel) const;  // each u has the rows of h and the rank of c
  double flops() const;
};

struct LowRankCombineBackward {
  Tensor grad_h;
  TensorList u, c, grad_u, grad_c;  // gradients of one kind: all or none

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_h", grad_h, "... d", f32);
    field.in("u", u, "... r", f32);
    field.in("c", c, "r d", f32);
    field.in_out("grad_u", grad_u, "... r", f32).optional();
    field.in_out("grad_c", grad_c, "r d", f32).optional();
  }
  void check(const char* kernel) const;
  double flops() const;
};

}  // namespace sidetune
