// From images to the tokens that enter the first block of a vision transformer (Dosovitskiy et al., arXiv 2010.11929, 3.1).
//
// PatchEmbed: a convolution with P × P kernels and stride P, which is a linear layer on patches that do not overlap:
//   out[b, p] = weight · patch(b, p) + bias        patch(b, p) [C P P]: channel, row, column; patches p in row-major order
// Backward unfolds the images again, so nothing is saved; sums run over all b and p:
//   gradImages: patch(b, p) = weightᵀ gradOut[b, p]
//   gradWeight += Σ gradOut[b, p] patch(b, p)ᵀ        gradBias += Σ gradOut[b, p]
// Products have the dtype of the tokens: a bf16 `out` (or gradOut) means that pixels and weight, on CUDA the bias, too, are
// rounded to bf16; sums are f32. The caller gives `out`, and with it that dtype. On the CPU the weight is packed for the GEMM at
// each call: half a millisecond in ViT-B. On CUDA patches are unfolded into scratch in steps of a bounded size.
//
// EmbedTokens: out[b] = [cls; patches[b]] + pos. Without class token (prefix_tokens 0), patches[b] + pos.
//   gradPatches = gradOut without its class row        gradCls += Σ_b gradOut[b, 0]        gradPos += Σ_b gradOut[b]
//
// B images, C channels, H × W pixels, D numbers per token, n patches, T class tokens (0 or 1). Gradients of parameters are added
// to what is there. No result depends on the number of threads or on chance: sums run over fixed groups of rows, or over images
// in order.
#pragma once

#include "fields.h"

namespace sidetune {

struct PatchEmbedForward {
  Tensor images, weight, bias, out;

  template <class Fields>
  void fields(Fields& field) {
    field.in("images", images, "B C H W", f32);
    field.in("weight", weight, "D C P P", f32);
    field.in("bias", bias, "D", f32).optional();
    field.out("out", out, "B (H/P)*(W/P) D", f32 | bf16);
  }
  double flops() const { return 2.0 * images.size() * weight.dim(0); }
};

struct PatchEmbedBackward {
  Tensor images, weight, grad_out, grad_images, grad_weight, grad_bias;

  template <class Fields>
  void fields(Fields& field) {
    field.in("images", images, "B C H W", f32);
    field.in("weight", weight, "D C P P", f32);
    field.in("grad_out", grad_out, "B (H/P)*(W/P) D", f32 | bf16);
    field.out("grad_images", grad_images, "B C H W", f32).optional();
    field.in_out("grad_weight", grad_weight, "D C P P", f32).optional();
    field.in_out("grad_bias", grad_bias, "D", f32).optional();
  }
  double flops() const { return 2.0 * images.size() * grad_out.dim(2) * ((grad_images ? 1 : 0) + (grad_weight ? 1 : 0)); }
};

struct EmbedTokensForward {
  Tensor patches, cls, pos, out;
  int64_t prefix_tokens = 1;

  template <class Fields>
  void fields(Fields& field) {
    field.option("prefix_tokens", prefix_tokens, between(0, 1)).bind("T");
    field.in("patches", patches, "B n D", f32 | bf16);
    field.in("cls", cls, "1 1 D", f32).optional();
    field.in("pos", pos, "1 n+T D", f32);
    field.out("out", out, "B n+T D", like("patches"));
  }
  void check(const char* kernel) const;
  double flops() const { return 1.0 * out.size(); }
};

struct EmbedTokensBackward {
  Tensor grad_out, grad_patches, grad_cls, grad_pos;
  int64_t patches = 0, prefix_tokens = 1;

  template <class Fields>
  void fields(Fields& field) {
    field.option("patches", patches, at_least(0)).bind("n").required();
    field.option("prefix_tokens", prefix_tokens, between(0, 1)).bind("T");
    field.in("grad_out", grad_out, "B n+T D", f32 | bf16);
    field.out("grad_patches", grad_patches, "B n D", like("grad_out")).optional();
    field.in_out("grad_cls", grad_cls, "1 1 D", f32).optional();
    field.in_out("grad_pos", grad_pos, "1 n+T D", f32).optional();
  }
  void check(const char* kernel) const;
  double flops() const { return 1.0 * grad_out.size() * ((grad_cls ? 1.0 / grad_out.dim(1) : 0) + (grad_pos ? 1 : 0)); }
};

}  // namespace sidetune
