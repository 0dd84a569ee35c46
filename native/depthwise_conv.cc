#include "depthwise_conv.h"

#include "check.h"

namespace sidetune {
namespace {

void check_side(const char* kernel, const Tensor& weight) {
  if (weight.dim(-1) == 0) refuse_shape(kernel, "weight", to_string(weight), "a kernel of at least 1 by 1");
}

}  // namespace

void DepthwiseConvForward::check(const char* kernel) const { check_side(kernel, weight); }

void DepthwiseConvBackward::check(const char* kernel) const {
  check_side(kernel, weight);
  if (grad_weight && !x) refuse_argument(kernel, "x", "undefined", "a tensor, because 'gradWeight' is given");
}

}  // namespace sidetune
