// DTL's inject (arXiv 2312.07856, eq. 7–9): the side state h goes into the token stream z.
//   DTL    out = z + θ(h)             θ(x) = x σ(beta x)
//   DTL+   out = z + g(θ(h))          g: depthwise K×K convolution over the patch grid, given by `weight`
// g pads with zeros to the same size, p = ⌊(K − 1)/2⌋ before, is a cross-correlation, and lets the P prefix tokens (CLS) pass
// unchanged; tokens are P + GH·GW rows of d channels. Without `weight`, grid and prefixTokens mean nothing and any shape goes.
// Backward (the gradient of z is gradOut itself: nothing to compute), with gᵀ the same convolution, kernel flipped and padding's
// sides swapped:
//   gradH = residual + θ'(h) ∘ gᵀ(gradOut)      θ'(x) = σ(beta x) (1 + beta x (1 − σ(beta x)))
//   gradWeight[i, j] += Σ_{images, y, x} gradOut[y, x] θ(h)[y + i − p, x + j − p]
// `residual` is a gradient that h already has from the blocks above. Nothing is saved: backward takes h, which is walked back to
// what it was. One pass each way: θ(h) lives only in what a thread (CPU: rings of K grid rows) or a block of threads (CUDA: tiles
// in shared memory) needs at a time. gradWeight is added to what is there, gradH is written. The result does not depend on the
// number of threads or multiprocessors: images are summed in fixed groups and the groups in order.
//
// LowRank: the same of a state that is never formed. h has the rank of what side layers read (low_rank.h), so it comes of a few
// numbers a row where it is needed, in registers:
//   h = Σ_j u_j c_j                              u_j [.., r], c_j [r, d], one pair for each block up to this one, r small
// Nothing lies in memory for it, nothing drifts and nothing is to be walked back. Backward gives gradH; the gradients of u and c
// come of that (LowRankCombineBackward). Each number costs 2 r operations a pair instead of reading and writing h.
#pragma once

#include "fields.h"

namespace sidetune {

struct SideInjectForward {
  Tensor z, h, weight, out;
  float beta = 100;
  int64_t grid[2] = {};  // rows, columns; zeros: not given
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("z", z, "... d", f32 | bf16);
    field.in("h", h, "... d", f32);
    field.in("weight", weight, "d 1 K K", f32).optional();
    field.out("out", out, "... d", like("z")).may_alias("z");
    field.option("beta", beta, finite());
    field.option("grid", grid, between(0, 65535));
    field.option("prefix_tokens", prefix_tokens, between(0, 65535));
  }
  void check(const char* kernel) const;  // with weight: K is at least 1, and tokens are prefix and grid
  double flops() const;
};

struct SideInjectBackward {
  Tensor grad_out, h, weight, residual, grad_h, grad_weight;
  float beta = 100;
  int64_t grid[2] = {};
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "... d", f32 | bf16);
    field.in("h", h, "... d", f32);
    field.in("weight", weight, "d 1 K K", f32).optional();
    field.in("residual", residual, "... d", f32).optional();
    field.out("grad_h", grad_h, "... d", f32).may_alias("residual").optional();
    field.in_out("grad_weight", grad_weight, "d 1 K K", f32).optional();
    field.option("beta", beta, finite());
    field.option("grid", grid, between(0, 65535));
    field.option("prefix_tokens", prefix_tokens, between(0, 65535));
  }
  void check(const char* kernel) const;  // and gradWeight needs weight
  double flops() const;
};

struct SideInjectLowRankForward {
  Tensor z, weight, out;
  TensorList u, c;  // an entry for each block
  float beta = 100;
  int64_t grid[2] = {};
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("z", z, "... d", f32 | bf16);
    field.in("u", u, "... r", f32);
    field.in("c", c, "r d", f32);
    field.in("weight", weight, "d 1 K K", f32).optional();
    field.out("out", out, "... d", like("z")).may_alias("z");
    field.option("beta", beta, finite());
    field.option("grid", grid, between(0, 65535));
    field.option("prefix_tokens", prefix_tokens, between(0, 65535));
  }
  void check(const char* kernel) const;  // each u has the rows of z and the rank of c
  double flops() const;
};

struct SideInjectLowRankBackward {
  Tensor grad_out, weight, grad_h, grad_weight;
  TensorList u, c;
  float beta = 100;
  int64_t grid[2] = {};
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "... d", f32 | bf16);
    field.in("u", u, "... r", f32);
    field.in("c", c, "r d", f32);
    field.in("weight", weight, "d 1 K K", f32).optional();
    field.out("grad_h", grad_h, "... d", f32).optional();
    field.in_out("grad_weight", grad_weight, "d 1 K K", f32).optional();
    field.option("beta", beta, finite());
    field.option("grid", grid, between(0, 65535));
    field.option("prefix_tokens", prefix_tokens, between(0, 65535));
  }
  void check(const char* kernel) const;
  double flops() const;
};

}  // namespace sidetune
