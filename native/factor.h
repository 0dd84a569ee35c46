// FacT's Tucker form (Jie and Deng, arXiv 2212.03145): matrices that share a core and differ in a column of factors,
//   S_t[a, b] = Σ_c core[a, b, c] factors[c, column + t]          t < n, n = count;  core [r, r, r], factors [r, T]
// written together as the weight of one linear layer y = x Wᵀ, by layout:
//   rows                 W [n r, r]    W[t r + b, a] = S_t[a, b]      x S_0, x S_1, … side by side: q, k, v, proj
//   interleaved_rows     W [n r, r]    W[b n + t, a] = S_t[a, b]      x F with F[a, n b + t] = S_t[a, b]: fc1
//   interleaved_columns  W [r, n r]    W[a, b n + t] = S_t[a, b]      x Gᵀ with G[a, n b + t] = S_t[a, b]: fc2
// The interleaved ones are the original's reshape of [r, r, n] to [r, n r]. `out` is declared as [n r, r]; interleaved_columns
// has as many numbers, row-major as [r, n r]. Backward, with g_t[a, b] the gradient of S_t[a, b]:
//   gradCore[a, b, c] += Σ_t g_t[a, b] factors[c, column + t]
//   gradFactors[c, column + t] += Σ_{a, b} g_t[a, b] core[a, b, c]
// core serves gradFactors alone and factors gradCore alone. Everything is f32. Sums over (a, b) go in fixed groups that are added
// in order: the result does not depend on the number of threads or multiprocessors.
#pragma once

#include "fields.h"

namespace sidetune {

enum class FactorLayout : uint8_t { rows, interleaved_rows, interleaved_columns };

// S_t[a, b] is number a · of_a + b · of_b + t · of_t of the weight.
struct FactorPlaces {
  int64_t of_a = 0, of_b = 0, of_t = 0;

  FactorPlaces(FactorLayout layout, int64_t r, int64_t count) {
    switch (layout) {
      case FactorLayout::rows:
        of_a = 1, of_b = r, of_t = r * r;
        break;
      case FactorLayout::interleaved_rows:
        of_a = 1, of_b = count * r, of_t = r;
        break;
      case FactorLayout::interleaved_columns:
        of_a = count * r, of_b = count, of_t = 1;
        break;
    }
  }
};

struct FactorContractForward {
  Tensor core, factors, out;
  int64_t column = 0, count = 1;
  FactorLayout layout = FactorLayout::rows;

  template <class Fields>
  void fields(Fields& field) {
    field.option("column", column, at_least(0));
    field.option("count", count, at_least(1)).bind("n").required();
    field.choice("layout", layout, "rows interleaved_rows interleaved_columns");
    field.in("core", core, "r r r", f32);
    field.in("factors", factors, "r T", f32);
    field.out("out", out, "n*r r", f32);
  }
  void check(const char* kernel) const;  // the columns are there
  int64_t untouched_bytes() const { return (factors.dim(1) - count) * factors.dim(0) * size_of(DType::f32); }
  double flops() const { return 2.0 * core.size() * count; }
};

struct FactorContractBackward {
  Tensor grad_out, core, factors, grad_core, grad_factors;
  int64_t column = 0, count = 1;
  FactorLayout layout = FactorLayout::rows;

  template <class Fields>
  void fields(Fields& field) {
    field.option("column", column, at_least(0));
    field.option("count", count, at_least(1)).bind("n").required();
    field.choice("layout", layout, "rows interleaved_rows interleaved_columns");
    field.in("core", core, "r r r", f32).optional();
    field.in("factors", factors, "r T", f32).optional();
    field.in_out("grad_core", grad_core, "r r r", f32).optional();
    field.in_out("grad_factors", grad_factors, "r T", f32).optional();
    field.in("grad_out", grad_out, "n*r r", f32);
  }
  void check(const char* kernel) const;
  int64_t untouched_bytes() const {
    const auto beside = [&](const Tensor& t) { return t ? (t.dim(1) - count) * t.dim(0) * size_of(DType::f32) : 0; };
    return beside(factors) + 2 * beside(grad_factors);
  }
  double flops() const { return 2.0 * grad_out.size() * grad_out.dim(1) * ((grad_core ? 1 : 0) + (grad_factors ? 1 : 0)); }
};

}  // namespace sidetune
