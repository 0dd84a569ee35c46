#include "layer_norm.h"

#include "check.h"

namespace sidetune {
namespace {

bool is_wanted(const Tensor& tensor) { return tensor.rank > 0 || tensor; }

void check_bytes(const char* kernel, const Tensor& xhat, const Tensor& step) {
  if (is_wanted(xhat) != is_wanted(step))
    refuse_argument(kernel, "xhat", "without 'step', or the other way round", "both or none");
}

}  // namespace

void LayerNormForward::check(const char* kernel) const { check_bytes(kernel, xhat, step); }

void LayerNormBackward::check(const char* kernel) const {
  check_bytes(kernel, xhat, step);
  if (static_cast<bool>(x) != static_cast<bool>(mean))
    refuse_argument(kernel, "x", "without 'mean', or the other way round", "both or none");
  if (static_cast<bool>(x) == static_cast<bool>(xhat))
    refuse_argument(kernel, "xhat", xhat ? "given beside x" : "missing like x", "one of both");
}

}  // namespace sidetune
