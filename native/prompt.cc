#include "prompt.h"

#include "check.h"

namespace sidetune {
namespace {

// That rows [at, at + count) of `tokens` are there.
void check_rows(const char* kernel, int64_t at, const char* argument, int64_t count, const Tensor& tokens, const char* name) {
  const int64_t rows = tokens.dim(1);
  const std::string of = "of '" + camel_case(name) + "'";
  if (at > rows) {
    refuse_argument(kernel, "at", std::to_string(at), "at most " + std::to_string(rows) + ", the number of tokens " + of);
  }
  if (count > rows - at) {
    refuse_argument(kernel, argument, std::to_string(count),
                    "at most " + std::to_string(rows - at) + ", the number of tokens " + of + " from row " + std::to_string(at));
  }
}

}  // namespace

void PromptForward::check(const char* kernel) const { check_rows(kernel, at, "replaced", replaced, x, "x"); }
void PromptBackward::check(const char* kernel) const { check_rows(kernel, at, "prompts", prompts, grad_out, "grad_out"); }

}  // namespace sidetune
