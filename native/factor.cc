#include "factor.h"

#include "check.h"

namespace sidetune {
namespace {

// That columns [column, column + count) are there.
void check_columns(const char* kernel, int64_t column, int64_t count, const Tensor& factors, const char* name) {
  const int64_t columns = factors.dim(1);
  const std::string of = ", the number of columns of '" + camel_case(name) + "'";
  if (count > columns) refuse_argument(kernel, "count", std::to_string(count), "at most " + std::to_string(columns) + of);
  if (column > columns - count) {
    refuse_argument(
        kernel, "column", std::to_string(column),
        "at most " + std::to_string(columns - count) + ": " + std::to_string(count) + " of " + std::to_string(columns) + of);
  }
}

}  // namespace

void FactorContractForward::check(const char* kernel) const { check_columns(kernel, column, count, factors, "factors"); }

void FactorContractBackward::check(const char* kernel) const {
  if (grad_core && !factors) refuse_argument(kernel, "factors", "missing", "a tensor, since 'gradCore' is wanted");
  if (grad_factors && !core) refuse_argument(kernel, "core", "missing", "a tensor, since 'gradFactors' is wanted");
  if (factors) check_columns(kernel, column, count, factors, "factors");
  if (grad_factors) check_columns(kernel, column, count, grad_factors, "grad_factors");
}

}  // namespace sidetune
