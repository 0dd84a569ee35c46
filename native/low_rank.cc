#include "low_rank.h"

#include "check.h"

namespace sidetune {

void LowRankCombineForward::check(const char* kernel) const { check_factors(kernel, u, h, c); }

void LowRankCombineBackward::check(const char* kernel) const { check_factors(kernel, u, grad_h, c); }

double LowRankCombineForward::flops() const { return factor_flops(h, c); }

double LowRankCombineBackward::flops() const {
  return factor_flops(grad_h, c) * ((grad_u.empty() ? 0 : 1) + (grad_c.empty() ? 0 : 1));
}

}  // namespace sidetune
