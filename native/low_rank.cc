#include "low_rank.h"

#include "check.h"

namespace sidetune {
namespace {

double product_flops(const Tensor& h, const TensorList& c) {
  return 2.0 * static_cast<double>(h.size()) * static_cast<double>(c.size()) * static_cast<double>(c[0].dim(0));
}

}  // namespace

void LowRankCombineForward::check(const char* kernel) const { check_factors(kernel, u, h, c); }

void LowRankCombineBackward::check(const char* kernel) const { check_factors(kernel, u, grad_h, c); }

double LowRankCombineForward::flops() const { return product_flops(h, c); }

double LowRankCombineBackward::flops() const {
  return product_flops(grad_h, c) * ((grad_u.empty() ? 0 : 1) + (grad_c.empty() ? 0 : 1));
}

}  // namespace sidetune
