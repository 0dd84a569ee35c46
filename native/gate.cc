#include "gate.h"

#include "check.h"

namespace sidetune {

void GateBackward::check(const char* kernel) const {
  if (!grad_alpha) return;
  if (!a) refuse_argument(kernel, "a", "missing", "a tensor, since 'gradAlpha' is wanted");
  if (!b) refuse_argument(kernel, "b", "missing", "a tensor, since 'gradAlpha' is wanted");
}

}  // namespace sidetune
