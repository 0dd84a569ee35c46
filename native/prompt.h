// Learned tokens in a sequence (Jia et al., arXiv 2203.12119): l prompts, the same for all images, go in at row `at` of each
// image's tokens, where `replaced` rows give way to them. With nothing replaced they are inserted.
//   out_b = x_b[0 : at] ++ prompt ++ x_b[at + replaced : N]
// Backward needs no tokens:
//   gradX_b = gradOut_b[0 : at] ++ zeros(replaced) ++ gradOut_b[at + l : ]        gradPrompt += Σ_b gradOut_b[at : at + l]
// B images, N tokens before and M = N + l − replaced after, d width. Prompts are f32 and rounded to the tokens' dtype on their
// way in; images are summed in order, in f32, so the result does not depend on the number of threads.
#pragma once

#include "fields.h"

namespace sidetune {

struct PromptForward {
  Tensor x, prompt, out;
  int64_t at = 0, replaced = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.option("at", at, at_least(0)).required();
    field.option("replaced", replaced, at_least(0)).bind("R");
    field.in("x", x, "B N d", f32 | bf16);
    field.in("prompt", prompt, "l d", f32);
    field.out("out", out, "B N+l-R d", like("x"));
  }
  void check(const char* kernel) const;  // the rows that give way are there
  double flops() const { return 0.0; }
};

struct PromptBackward {
  Tensor grad_out, grad_x, grad_prompt;
  int64_t prompts = 0, at = 0, replaced = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.option("prompts", prompts, at_least(0)).bind("l").required();
    field.option("at", at, at_least(0)).required();
    field.option("replaced", replaced, at_least(0)).bind("R");
    field.in("grad_out", grad_out, "B M d", f32 | bf16);
    field.out("grad_x", grad_x, "B M+R-l d", like("grad_out")).optional();
    field.in_out("grad_prompt", grad_prompt, "l d", f32).optional();
  }
  void check(const char* kernel) const;  // the prompts are there
  double flops() const { return grad_prompt ? 1.0 * grad_out.dim(0) * grad_prompt.size() : 0.0; }
};

}  // namespace sidetune
