#include "pool.h"

#include "check.h"

namespace sidetune {

void check_prefix(const char* kernel, int64_t prefix_tokens, const Tensor& tokens, const char* name) {
  if (prefix_tokens < tokens.dim(1)) return;
  refuse_argument(kernel, "prefix_tokens", std::to_string(prefix_tokens),
                  "less than " + std::to_string(tokens.dim(1)) + ", the number of tokens of '" + camel_case(name) + "'");
}

void PoolForward::check(const char* kernel) const {
  if (mode == PoolMode::mean) check_prefix(kernel, prefix_tokens, x, "x");
}
void PoolBackward::check(const char* kernel) const {
  if (grad_x && mode == PoolMode::mean) check_prefix(kernel, prefix_tokens, grad_x, "grad_x");
}

}  // namespace sidetune
