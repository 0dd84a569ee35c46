#include "side_inject.h"

#include "check.h"

namespace sidetune {
namespace {

template <class Arguments>
void check_convolution(const char* kernel, const char* argument, const Tensor& x, const Arguments& k) {
  if (k.weight.dim(-1) == 0) refuse_shape(kernel, "weight", to_string(k.weight), "a kernel of at least 1 by 1");
  const int64_t rows = k.grid[0], columns = k.grid[1], tokens = x.rank < 2 ? 1 : x.dim(-2),
                expected = k.prefix_tokens + rows * columns;
  if (rows == 0 || columns == 0)
    refuse_argument(kernel, "grid", "undefined or 0", "[rows, columns] of the patches that 'weight' convolves");
  if (tokens != expected) {
    refuse_shape(kernel, argument, std::to_string(tokens) + " tokens",
                 "prefixTokens + grid = " + std::to_string(k.prefix_tokens) + " + " + std::to_string(rows) + "·" +
                     std::to_string(columns) + " = " + std::to_string(expected));
  }
}

double convolution_flops(const Tensor& h, const Tensor& weight) {
  return weight ? 2.0 * h.size() * weight.dim(-1) * weight.dim(-1) : 0;
}

template <class Arguments>
void check_backward(const char* kernel, const Arguments& k) {
  if (k.weight) {
    check_convolution(kernel, "grad_out", k.grad_out, k);
  } else if (k.grad_weight) {
    refuse_argument(kernel, "weight", "undefined", "a tensor, because 'gradWeight' is given");
  }
}

template <class Arguments>
double backward_flops(const Arguments& k) {
  const Tensor& x = k.grad_out;
  return (k.grad_h ? 10.0 * x.size() : 0) + convolution_flops(x, k.weight) * ((k.grad_h ? 1 : 0) + (k.grad_weight ? 1 : 0));
}

}  // namespace

void SideInjectForward::check(const char* kernel) const {
  if (weight) check_convolution(kernel, "z", z, *this);
}
void SideInjectBackward::check(const char* kernel) const { check_backward(kernel, *this); }
void SideInjectLowRankForward::check(const char* kernel) const {
  check_factors(kernel, u, z, c);
  if (weight) check_convolution(kernel, "z", z, *this);
}
void SideInjectLowRankBackward::check(const char* kernel) const {
  check_factors(kernel, u, grad_out, c);
  check_backward(kernel, *this);
}

double SideInjectForward::flops() const { return 6.0 * h.size() + convolution_flops(h, weight); }
double SideInjectBackward::flops() const { return backward_flops(*this); }
double SideInjectLowRankForward::flops() const { return 6.0 * z.size() + convolution_flops(z, weight) + factor_flops(z, c); }
double SideInjectLowRankBackward::flops() const { return backward_flops(*this) + factor_flops(grad_out, c); }

}  // namespace sidetune
