#include "mlp.h"

#include "check.h"
#include "linear.h"

namespace sidetune {
namespace {

void check_frozen(const char* kernel, const char* name, const Tensor& weight, Layout layout, const Tensor& rows,
                  const char* rows_name) {
  if (weight.layout == Layout::plain) refuse_argument(kernel, name, "plain", name_of(layout));
  check_weight(kernel, name, weight, layout, rows, rows_name);
}

}  // namespace

void MlpForward::check(const char* kernel) const {
  check_frozen(kernel, "weight1", weight1, Layout::packed, x, "x");
  check_frozen(kernel, "weight2", weight2, Layout::packed, x, "x");
}

void MlpBackward::check(const char* kernel) const {
  check_frozen(kernel, "weight1", weight1, Layout::packed_transposed, grad_out, "grad_out");
  check_frozen(kernel, "weight2", weight2, Layout::packed_transposed, grad_out, "grad_out");
}

void MlpMeanForward::check(const char* kernel) const {
  check_frozen(kernel, "weight1", weight1, Layout::packed, x, "x");
  check_frozen(kernel, "weight2", weight2, Layout::packed, x, "x");
  check_prefix(kernel, prefix_tokens, x, "x");
}

void MlpMeanBackward::check(const char* kernel) const {
  check_frozen(kernel, "weight1", weight1, Layout::packed_transposed, grad_out, "grad_out");
  check_frozen(kernel, "weight2", weight2, Layout::packed_transposed, grad_out, "grad_out");
  check_prefix(kernel, prefix_tokens, grad_x, "grad_x");
}

}  // namespace sidetune
