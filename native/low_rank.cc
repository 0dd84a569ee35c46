#include "low_rank.h"

#include <algorithm>

#include "check.h"

namespace sidetune {
namespace {

// In the general check the first list of a call, u, stands for itself; here each of it is held to the rows of h and the rank of
// c.
void check_projections(const char* kernel, const TensorList& u, const Tensor& h, const TensorList& c) {
  Tensor expected = h;
  expected.shape[h.rank - 1] = c[0].dim(0);
  for (size_t j = 0; j < u.size(); j++) {
    if (u[j].rank == h.rank && std::equal(expected.shape, expected.shape + expected.rank, u[j].shape)) continue;
    refuse_shape(kernel, "u", "of shape " + to_string(u[j]) + " at " + std::to_string(j), to_string(expected));
  }
}

double product_flops(const Tensor& h, const TensorList& c) {
  return 2.0 * static_cast<double>(h.size()) * static_cast<double>(c.size()) * static_cast<double>(c[0].dim(0));
}

}  // namespace

void LowRankCombineForward::check(const char* kernel) const { check_projections(kernel, u, h, c); }

void LowRankCombineBackward::check(const char* kernel) const { check_projections(kernel, u, grad_h, c); }

double LowRankCombineForward::flops() const { return product_flops(h, c); }

double LowRankCombineBackward::flops() const {
  return product_flops(grad_h, c) * ((grad_u.empty() ? 0 : 1) + (grad_c.empty() ? 0 : 1));
}

}  // namespace sidetune
