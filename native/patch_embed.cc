#include "patch_embed.h"

#include "check.h"

namespace sidetune {
namespace {

void check_cls(const char* kernel, const char* argument, const Tensor& cls, int64_t prefix_tokens) {
  if (cls && prefix_tokens == 0) refuse_argument(kernel, argument, "given", "nothing, since 'prefixTokens' is 0");
}

}  // namespace

void EmbedTokensForward::check(const char* kernel) const {
  check_cls(kernel, "cls", cls, prefix_tokens);
  if (!cls && prefix_tokens > 0) refuse_argument(kernel, "cls", "missing", "a tensor, since 'prefixTokens' is 1");
}

void EmbedTokensBackward::check(const char* kernel) const { check_cls(kernel, "grad_cls", grad_cls, prefix_tokens); }

}  // namespace sidetune
