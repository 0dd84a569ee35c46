// One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) on a list of parameters θ with gradients g, in PyTorch's order of
// operations:
//   θ ← (1 − lr λ) θ                                       λ = weight_decay
//   m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²
//   θ ← θ − lr/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps)     t = step, from 1
// All tensors in one call and one pass: θ, m and v are read and written once, g is read once. A parameter whose gradient is 0
// decays all the same. Factors that are the same for all numbers are computed in double. The result does not depend on the number
// of threads.
#pragma once

#include <cmath>

#include "fields.h"

namespace sidetune {

// What is the same for all numbers: m ← beta1 m + one_minus_beta1 g, v likewise with g², θ ← keep θ − rate m / (√v root + eps).
struct AdamwFactors {
  float keep, beta1, one_minus_beta1, beta2, one_minus_beta2, rate, root, eps;
};

struct AdamwUpdate {
  TensorList parameters, first_moments, second_moments, gradients;
  float lr = 1e-3f, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, weight_decay = 0;
  int64_t step = 1;

  template <class Fields>
  void fields(Fields& field) {
    field.in_out("parameters", parameters, "...", f32);
    field.in_out("first_moments", first_moments, "...", f32);
    field.in_out("second_moments", second_moments, "...", f32);
    field.in("gradients", gradients, "...", f32);
    field.option("lr", lr, at_least(0)).required();
    field.option("beta1", beta1, between(0, kBelowOne));
    field.option("beta2", beta2, between(0, kBelowOne));
    field.option("eps", eps, positive());
    field.option("weight_decay", weight_decay, at_least(0));
    field.option("step", step, at_least(1)).required();
  }
  AdamwFactors factors() const {
    const double rate = lr, b1 = beta1, b2 = beta2, t = static_cast<double>(step);
    return {static_cast<float>(1 - rate * static_cast<double>(weight_decay)),
            beta1,
            static_cast<float>(1 - b1),
            beta2,
            static_cast<float>(1 - b2),
            static_cast<float>(rate / (1 - std::pow(b1, t))),
            static_cast<float>(1 / std::sqrt(1 - std::pow(b2, t))),
            eps};
  }
  double flops() const {
    double numbers = 0;
    for (const Tensor& parameter : parameters) numbers += static_cast<double>(parameter.size());
    return 14 * numbers;
  }

  static constexpr double kBelowOne = 0.99999994;  // the largest f32 below 1: a beta of 1 would leave nothing to divide by
};

}  // namespace sidetune
