// Multi-head attention without mask over fused qkv, for each image and head (Vaswani et al., arXiv 1706.03762):
//   s = scale · q kᵀ      p = softmax(s)      out = p v      lse = log Σ exp s
// q, k and v are the three thirds of a row of qkv, each head after head. Forward saves lse, one f32 number a row and head, and
// backward rebuilds p = exp(s − lse) (FlashAttention, arXiv 2205.14135):
//   dp = gradOut vᵀ      D = Σ_keys p ∘ dp      ds = p ∘ (dp − D)
//   gradQ = scale · ds k      gradK = scale · dsᵀ q      gradV = pᵀ gradOut
// D equals FlashAttention's Σ gradOut ∘ out; taken from p and dp, it spares keeping `out` for backward. p is divided by its sum
// over the keys, which is 1 but for the rounding of lse.
//
// B images, N tokens, H heads, E numbers per head; C = 3 H E in forward, d = H E in backward. gradQkv is written, not added.
// Algorithms, by name:
//   tiled     tile by tile: neither s nor p (N×N) reaches memory. CUDA has it for E up to 128; above, it takes the other one.
//   batched   CUDA alone: s, p, dp and ds of as many heads as fit 64 MiB (at least one) lie in scratch memory, between products
//   of
//             whole heads
// Sums and s are f32. In bf16, p and ds are rounded to bf16 where products are of bf16 (AVX512-BF16, tensor cores); elsewhere all
// is f32. Everything is summed in a fixed order: the result does not depend on the number of threads or multiprocessors.
//
// Where one query an image is all that is read, CLS's in the last block of a backbone whose head reads CLS (CaiT calls it class
// attention, arXiv 2103.17239), neither k nor v need be made: both are linear in the rows x that they are made of. With the three
// thirds of the layer in front, W_q, W_k and W_v [H E, I], and head h's rows of them:
//   q = x_0 W_qᵀ + b_q      g_h = q_h W_k,h      s_h,n = scale · g_h · x_n      p = softmax(s)
//   m_h = Σ_n p_h,n x_n      out_h = m_h W_v,hᵀ + b_v
// (b_k adds the same to all scores.) 2 H N I products of two numbers an image instead of 3 N I H E. All is f32 but x, weight and
// the result. For inference: it has no backward.
#pragma once

#include "fields.h"

namespace sidetune {

enum class AttentionAlgorithm : uint8_t { tiled, batched };

struct AttentionForward {
  Tensor qkv, out, lse;
  int64_t heads = 0;
  float scale = 0;  // 0 means 1/√E
  AttentionAlgorithm algorithm = AttentionAlgorithm::tiled;

  template <class Fields>
  void fields(Fields& field) {
    field.in("qkv", qkv, "B N C", f32 | bf16);
    field.out("out", out, "B N C/3", like("qkv"));
    field.saved("lse", lse, "B H N", f32);
    field.option("heads", heads, at_least(1)).required().bind("H");
    field.option("scale", scale, finite());
    field.choice("algorithm", algorithm, "tiled batched");
  }
  void check(const char* kernel) const;  // C is a multiple of 3 H
  // Two products of N × E × N for each image and head.
  double flops() const { return 4.0 / 3.0 * qkv.size() * qkv.dim(1); }
};

struct AttentionBackward {
  Tensor grad_out, qkv, lse, grad_qkv;
  int64_t heads = 0;
  float scale = 0;  // as in forward
  AttentionAlgorithm algorithm = AttentionAlgorithm::tiled;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "B N d", f32 | bf16);
    field.in("qkv", qkv, "B N 3*d", like("grad_out"));
    field.in("lse", lse, "B H N", f32);
    field.out("grad_qkv", grad_qkv, "B N 3*d", like("grad_out"));
    field.option("heads", heads, at_least(1)).required().bind("H");
    field.option("scale", scale, finite());
    field.choice("algorithm", algorithm, "tiled batched");
  }
  void check(const char* kernel) const;  // d is a multiple of H
  // Five products of N × E × N for each image and head.
  double flops() const { return 10.0 / 3.0 * qkv.size() * qkv.dim(1); }
};

struct ClassAttentionForward {
  Tensor x, weight, bias, out;
  int64_t heads = 0;
  float scale = 0;  // as above

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "B N I", f32 | bf16);
    field.in("weight", weight, "C I", f32 | bf16);
    field.in("bias", bias, "C", f32).optional();
    field.out("out", out, "B C/3", like("x"));
    field.option("heads", heads, at_least(1)).required();
    field.option("scale", scale, finite());
  }
  void check(const char* kernel) const;  // C is a multiple of 3 H
  double flops() const { return x.dim(0) * x.dim(2) * (2.0 * weight.dim(0) + 4.0 * heads * x.dim(1)); }
};

}  // namespace sidetune
