#include "attention.h"

#include "check.h"

namespace sidetune {
namespace {

void check_width(const char* kernel, const char* argument, int64_t width, int64_t parts, const std::string& rule) {
  if (width % parts == 0) return;
  refuse_shape(kernel, argument, std::to_string(width) + " channels", "a multiple of " + rule + " = " + std::to_string(parts));
}

}  // namespace

void AttentionForward::check(const char* kernel) const { check_width(kernel, "qkv", qkv.dim(-1), 3 * heads, "3 heads"); }
void AttentionBackward::check(const char* kernel) const { check_width(kernel, "grad_out", grad_out.dim(-1), heads, "heads"); }

void ClassAttentionForward::check(const char* kernel) const {
  check_width(kernel, "weight", weight.dim(0), 3 * heads, "3 heads");
}

}  // namespace sidetune
