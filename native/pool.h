// From the tokens of an image to the one row that the head reads:
//   first:  out_b = x_{b,0}                                                       (the CLS token)
//   mean:   out_b = Σ_{n ≥ P} x_{b,n} / (N − P)      P = prefix_tokens            (the patch tokens)
// Backward spreads gradOut over the rows that were read and writes zeros to the others:
//   first:  gradX_{b,0} = gradOut_b
//   mean:   gradX_{b,n} = gradOut_b / (N − P) for n ≥ P
// Where x came out of a GELU, `slope` takes its derivative along: gradX ∘ slope (native/gelu_slope.h; mlpMean's way).
// B images, N tokens, d width. The caller gives out and grad_x, whose dtypes are its choice; grad_x also says N, and x itself
// need not be kept. Tokens are summed in order, in f32, and rounded once; the result does not depend on the number of threads.
#pragma once

#include "fields.h"

namespace sidetune {

// Refuses a prefix that leaves no token of `tokens` [B, N, d].
void check_prefix(const char* kernel, int64_t prefix_tokens, const Tensor& tokens, const char* name);

enum class PoolMode : uint8_t { first, mean };

struct PoolForward {
  Tensor x, out;
  PoolMode mode = PoolMode::first;
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "B N d", f32 | bf16);
    field.out("out", out, "B d", f32 | bf16);
    field.choice("mode", mode, "first mean");
    field.option("prefix_tokens", prefix_tokens, at_least(0));
  }
  void check(const char* kernel) const;  // at least one token is read
  double flops() const { return mode == PoolMode::mean ? 1.0 * x.size() : 0.0; }
};

struct PoolBackward {
  Tensor grad_out, grad_x;
  Tensor slope;  // as grad_x: no field, mlp alone has it
  PoolMode mode = PoolMode::first;
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_out", grad_out, "B d", f32 | bf16);
    field.out("grad_x", grad_x, "B N d", f32 | bf16).optional();
    field.choice("mode", mode, "first mean");
    field.option("prefix_tokens", prefix_tokens, at_least(0));
  }
  void check(const char* kernel) const;
  double flops() const { return mode == PoolMode::mean ? 1.0 * grad_out.size() : 0.0; }
};

}  // namespace sidetune
