#include "pool.h"

#include "check.h"

namespace sidetune {
namespace {

void check_prefix(const char* kernel, PoolMode mode, int64_t prefix_tokens, const Tensor& tokens, const char* name) {
  if (mode == PoolMode::first || prefix_tokens < tokens.dim(1)) return;
  refuse_argument(kernel, "prefix_tokens", std::to_string(prefix_tokens),
                  "less than " + std::to_string(tokens.dim(1)) + ", the number of tokens of '" + camel_case(name) + "'");
}

}  // namespace

void PoolForward::check(const char* kernel) const { check_prefix(kernel, mode, prefix_tokens, x, "x"); }
void PoolBackward::check(const char* kernel) const {
  if (grad_x) check_prefix(kernel, mode, prefix_tokens, grad_x, "grad_x");
}

}  // namespace sidetune
