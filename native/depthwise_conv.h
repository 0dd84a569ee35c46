// Depthwise convolution over a patch grid: one K×K kernel per channel, stride 1, zero padding to the same size, no bias.
//   out[y, x] = Σ_{i,j < K} weight[i, j] in[y + i − p, x + j − p]      p = ⌊(K − 1)/2⌋ before, the rest after (K = 4: 1 and 2)
// It is a cross-correlation: the kernel is not flipped. Tokens are rows: P prefix tokens (CLS), which pass unchanged, then the
// grid's GH·GW patches row by row, each D channels wide.
// Backward (gradX is the same operation with the kernel flipped and the padding's sides swapped):
//   gradX[y, x] = Σ_{i,j} weight[i, j] gradOut[y − i + p, x − j + p]
//   gradWeight[i, j] += Σ_{images, y, x} gradOut[y, x] in[y + i − p, x + j − p]
// Nothing is saved but x, and x only for gradWeight. The gradient of the weight is added to what is there, that of x is written.
// The result does not depend on the number of threads or multiprocessors: images are summed in fixed groups and the groups in
// order.
#pragma once

#include "fields.h"

namespace sidetune {

struct DepthwiseConvForward {
  Tensor x, weight, out;
  int64_t grid[2] = {};  // rows, columns
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.option("grid", grid, between(1, 65535)).bind("GH GW").required();
    field.option("prefix_tokens", prefix_tokens, between(0, 65535)).bind("P");
    field.in("x", x, "B P+GH*GW D", f32 | bf16);
    field.in("weight", weight, "D 1 K K", f32);
    field.out("out", out, "B P+GH*GW D", like("x"));
  }
  void check(const char* kernel) const;  // K is at least 1
  double flops() const { return 2.0 * x.dim(0) * grid[0] * grid[1] * weight.size(); }
};

struct DepthwiseConvBackward {
  Tensor grad_out, x, weight, grad_x, grad_weight;
  int64_t grid[2] = {};
  int64_t prefix_tokens = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.option("grid", grid, between(1, 65535)).bind("GH GW").required();
    field.option("prefix_tokens", prefix_tokens, between(0, 65535)).bind("P");
    field.in("grad_out", grad_out, "B P+GH*GW D", f32 | bf16);
    field.in("x", x, "B P+GH*GW D", like("grad_out")).optional();
    field.in("weight", weight, "D 1 K K", f32);
    field.out("grad_x", grad_x, "B P+GH*GW D", like("grad_out")).optional();
    field.in_out("grad_weight", grad_weight, "D 1 K K", f32).optional();
  }
  void check(const char* kernel) const;  // and gradWeight needs x
  double flops() const {
    return 2.0 * grad_out.dim(0) * grid[0] * grid[1] * weight.size() * ((grad_x ? 1 : 0) + (grad_weight ? 1 : 0));
  }
};

}  // namespace sidetune
