#include "scale_shift.h"

#include "check.h"

namespace sidetune {

void ScaleShiftBackward::check(const char* kernel) const {
  // Outputs that are yet to be allocated have their shape, unwanted ones do not.
  if (grad_x.rank > 0 && !scale) refuse_argument(kernel, "scale", "missing", "a tensor, since 'gradX' is wanted");
  if (grad_scale && !x) refuse_argument(kernel, "x", "missing", "a tensor, since 'gradScale' is wanted");
}

}  // namespace sidetune
