#include "linear.h"

#include "check.h"

namespace sidetune {
namespace {

constexpr int64_t kMaxInt8Depth = 65536;  // 255 · 127 · this fits 32 bits

// Outputs that are yet to be allocated have their shape, unwanted ones do not.
bool is_wanted(const Tensor& tensor) { return tensor.rank > 0; }

void check_pre_activation(const char* kernel, bool present, Activation activation) {
  if (present && activation == Activation::none)
    refuse_argument(kernel, "pre_activation", "asked for", "nothing without an activation");
}

// That the columns [column, column + O) of `rows` are there.
void check_window(const char* kernel, int64_t column, const char* weight_name, const Tensor& weight, const char* name,
                  const Tensor& rows) {
  const int64_t width = rows.dim(-1), O = weight.dim(0);
  const std::string columns = std::to_string(width) + ", the width of '" + camel_case(name) + "'";
  if (O > width) refuse_shape(kernel, weight_name, to_string(weight), "[O, I] with O of at most " + columns);
  if (column > width - O) {
    refuse_argument(kernel, "column", std::to_string(column),
                    "at most " + std::to_string(width - O) + ": a window of " + std::to_string(O) + " columns in " + columns);
  }
}

}  // namespace

void check_weight(const char* kernel, const char* name, const Tensor& weight, Layout packed, const Tensor& rows,
                  const char* rows_name) {
  const std::string quoted = "'" + camel_case(rows_name) + "'";
  if (weight.dtype == DType::i8) {
    if (packed != Layout::packed) refuse_argument(kernel, name, "i8", "f32 or bf16: gradients do not flow through i8");
    if (weight.layout != Layout::packed) refuse_argument(kernel, name, std::string(name_of(weight.layout)) + " in i8", "packed");
    if (weight.dim(1) > kMaxInt8Depth)
      refuse_argument(kernel, name, "i8 with " + std::to_string(weight.dim(1)) + " columns", "at most 65536 columns");
    return;
  }
  if (weight.layout != Layout::plain && weight.layout != packed) {
    refuse_argument(kernel, name, name_of(weight.layout), std::string("plain or ") + name_of(packed));
  }
  if (weight.dtype == rows.dtype) return;
  if (weight.layout != Layout::plain) {
    refuse_argument(kernel, name, std::string(name_of(weight.layout)) + " in " + name_of(weight.dtype),
                    std::string(name_of(rows.dtype)) + " like " + quoted);
  }
  if (weight.dtype == DType::bf16) refuse_argument(kernel, name, "bf16", "f32 like " + quoted);
}

void LinearForward::check(const char* kernel) const {
  check_weight(kernel, "weight", weight, Layout::packed, x, "x");
  if (residual && activation != Activation::none) refuse_argument(kernel, "residual", "given", "nothing behind an activation");
  check_pre_activation(kernel, is_wanted(pre_activation), activation);
}

void LinearBackward::check(const char* kernel) const {
  if (is_wanted(grad_x)) {
    if (!weight) refuse_argument(kernel, "weight", "missing", "a tensor, since 'gradX' is wanted");
    check_weight(kernel, "weight", weight, Layout::packed_transposed, grad_out, "grad_out");
  }
  if (grad_weight && !x) refuse_argument(kernel, "x", "missing", "a tensor, since 'gradWeight' is wanted");
  if (activation != Activation::none && !pre_activation) {
    refuse_argument(kernel, "pre_activation", "missing", "a tensor, since there is an activation");
  }
  check_pre_activation(kernel, is_wanted(pre_activation), activation);
  if (residual && x_slope) refuse_argument(kernel, "residual", "given", "nothing where x came out of a GELU");
}

void LinearAddForward::check(const char* kernel) const {
  check_weight(kernel, "weight", weight, Layout::packed, x, "x");
  check_window(kernel, column, "weight", weight, "y", y);
}

void LinearAddBackward::check(const char* kernel) const {
  if (is_wanted(grad_x)) {
    if (!weight) refuse_argument(kernel, "weight", "missing", "a tensor, since 'gradX' is wanted");
    check_weight(kernel, "weight", weight, Layout::packed_transposed, grad_out, "grad_out");
  }
  if (grad_weight && !x) refuse_argument(kernel, "x", "missing", "a tensor, since 'gradWeight' is wanted");
  if (weight) {
    check_window(kernel, column, "weight", weight, "grad_out", grad_out);
  } else if (grad_weight) {
    check_window(kernel, column, "grad_weight", grad_weight, "grad_out", grad_out);
  }
}

void LinearPack::check(const char* kernel) const {
  for (const auto* side : {&weight, &out}) {
    if (side->dtype == DType::i8 && side->layout != Layout::packed)
      refuse_argument(kernel, side == &weight ? "weight" : "out", std::string(name_of(side->layout)) + " in i8", "packed");
  }
  if (weight.dtype == DType::i8 && out.dtype == DType::i8) refuse_argument(kernel, "out", "i8 like 'weight'", "f32 or bf16");
  if (weight.layout == Layout::plain && out.layout == Layout::plain)
    refuse_argument(kernel, "out", "plain like 'weight'", "another layout");
}

}  // namespace sidetune
