// Multi-head attention without mask over fused qkv, for each image and head (Vaswani et al., arXiv 1706.03762):
//   s = scale · q kᵀ      p = softmax(s)      out = p v      lse = log Σ exp s
// q, k and v are the three thirds of a row of qkv, each head after head. Neither s nor p (N×N) reaches memory: forward saves lse,
// one f32 number a row and head, and backward rebuilds p = exp(s − lse) tile by tile (FlashAttention, arXiv 2205.14135):
//   dp = gradOut vᵀ      D = Σ_keys p ∘ dp      ds = p ∘ (dp − D)
//   gradQ = scale · ds k      gradK = scale · dsᵀ q      gradV = pᵀ gradOut
// D equals FlashAttention's Σ gradOut ∘ out; taken from p and dp, where a tile holds whole rows, it spares keeping `out` for
// backward.
//
// B images, N tokens, H heads, E numbers per head; C = 3 H E in forward, d = H E in backward. gradQkv is written, not added.
// Sums are f32. In bf16, p and ds are rounded to bf16 where the processor multiplies bf16 (AVX512-BF16); elsewhere all is f32.
// One thread does a head from begin to end in a fixed order: the result does not depend on the number of threads.
#pragma once

#include "fields.h"

namespace sidetune {

struct AttentionForward {
  Tensor qkv, out, lse;
  int64_t heads = 0;
  float scale = 0;  // 0 means 1/√E

  template <class Fields>
  void fields(Fields& field) {
    field.in("qkv", qkv, "B N C", f32 | bf16);
    field.out("out", out, "B N C/3", like("qkv"));
    field.saved("lse", lse, "B H N", f32);
    field.option("heads", heads, at_least(1)).required().bind("H");
    field.option("scale", scale, finite());
  }
  void check(const char* kernel) const;  // C is a multiple of 3 H
  // Two products of N × E × N for each image and head.
  double flops() const { return 4.0 / 3.0 * qkv.size() * qkv.dim(1); }
};

struct AttentionBackward {
  Tensor grad_out, qkv, lse, grad_qkv;
  int64_t heads = 0;
  float scale = 0;  // as in forward

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "B N d", f32 | bf16);
    field.in("qkv", qkv, "B N 3*d", like("grad_out"));
    field.in("lse", lse, "B H N", f32);
    field.out("grad_qkv", grad_qkv, "B N 3*d", like("grad_out"));
    field.option("heads", heads, at_least(1)).required().bind("H");
    field.option("scale", scale, finite());
  }
  void check(const char* kernel) const;  // d is a multiple of H
  // Five products of N × E × N for each image and head.
  double flops() const { return 10.0 / 3.0 * qkv.size() * qkv.dim(1); }
};

}  // namespace sidetune
