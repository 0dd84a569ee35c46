#include "low_rank.h"

#include <algorithm>

#include "check.h"

namespace sidetune {
namespace {

// The leading dimensions of `rows` and one of `width`. The first list of a call stands for itself in the general check.
void check_list(const char* kernel, const char* argument, const TensorList& list, const Tensor& rows, int64_t width) {
  Tensor like = rows;
  like.shape[like.rank - 1] = width;
  for (size_t j = 0; j < list.size(); j++) {
    const Tensor& t = list[j];
    if (t.rank == like.rank && std::equal(t.shape, t.shape + t.rank, like.shape)) continue;
    refuse_shape(kernel, argument, "of shape " + to_string(t) + " at " + std::to_string(j), to_string(like));
  }
}

double sizes(const Tensor& h, const TensorList& c) { return static_cast<double>(h.size()) * c.size() * c[0].dim(0); }

}  // namespace

void LowRankCombine::check(const char* kernel) const { check_list(kernel, "u", u, h, c[0].dim(0)); }

void LowRankCombineBackward::check(const char* kernel) const { check_list(kernel, "z", z, grad_h, grad_h.dim(-1)); }

double LowRankCombine::flops() const { return 2.0 * sizes(h, c); }

double LowRankCombineBackward::flops() const {
  return 2.0 * sizes(grad_h, c) * ((grad_a.empty() ? 0 : 2) + (grad_c.empty() ? 0 : 1));
}

}  // namespace sidetune
