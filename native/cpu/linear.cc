#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/linear.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../linear.h"
#include "gemm.h"
#include "parallel.h"

#ifndef SIDETUNE_CPU_LINEAR
#define SIDETUNE_CPU_LINEAR
namespace sidetune::cpu {

// The row of an optional tensor [rows, width] at a column; null if there is none.
template <class T>
T* at_row(const Tensor& tensor, int64_t row, int64_t width, int64_t column = 0) {
  return tensor ? tensor.as<T>() + row * width + column : nullptr;
}

}  // namespace sidetune::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

// out = tile + bias, behind it GELU or + residual, for one row of a tile; pre as it stands before GELU.
template <class T>
void finish_row(const float* tile, const float* bias, bool gelu_behind, const T* residual, int64_t columns, T* pre, T* out) {
  for_each_vector(columns, [&](size_t, auto at, auto put) HWY_ATTR {
    V v = at(tile);
    if (bias) v = hn::Add(v, at(bias));
    if (pre) put(v, pre);
    if (gelu_behind) v = gelu(v);
    if (residual) v = hn::Add(v, at(residual));
    put(v, out);
  });
}

template <class T>
void forward(Cpu& cpu, const LinearForward& k, Workspace scratch) {
  const int64_t I = k.x.dim(-1), O = k.weight.dim(0);
  const void* panels = weight_panels(cpu, k.weight, Layout::packed, k.x.dtype, scratch);
  const Left x{k.x.data, k.x.dtype};
  multiply(cpu, {k.x.rows(), O, I, k.x.dtype}, x, panels,
           [&](const float* tile, int64_t row, int64_t rows, int64_t column, int64_t columns) {
             for (int64_t r = 0; r < rows; r++) {
               finish_row(tile + r * columns, k.bias ? k.bias.as<float>() + column : nullptr, k.activation == Activation::gelu,
                          at_row<const T>(k.residual, row + r, O, column), columns,
                          at_row<T>(k.pre_activation, row + r, O, column), at_row<T>(k.out, row + r, O, column));
             }
           });
}

// g = gradOut ∘ GELU'(pre) for rows [begin, end), written if `g` is given, and Σ_rows g into `sum` (null where unwanted).
template <class T, class To>
void gradient_rows(const T* grad_out, const T* pre, int64_t begin, int64_t end, int64_t O, To* g, float* sum) {
  for (int64_t row = begin; row < end; row++) {
    const T *gradient = grad_out + row * O, *before = pre ? pre + row * O : nullptr;
    To* to = g ? g + row * O : nullptr;
    const bool start = row == begin;
    for_each_vector(O, [&](size_t, auto at, auto put) HWY_ATTR {
      V v = at(gradient);
      if (before) v = hn::Mul(v, gelu_derivative(at(before)));
      if (to) put(v, to);
      if (sum) put(start ? v : hn::Add(at(sum), v), sum);
    });
  }
}

void round_row(const float* from, int64_t count, float* to) { std::memcpy(to, from, count * sizeof(float)); }
void round_row(const float* from, int64_t count, bf16_t* to) {
  for_each_vector(count, [&](size_t, auto at, auto put) HWY_ATTR { put(at(from), to); });
}

// Rows [first, first + rows) of everything.
template <class T, class G>
void backward_step(Cpu& cpu, const LinearBackward& k, int64_t first, int64_t rows, const void* panels, Workspace scratch) {
  const int64_t O = k.grad_out.dim(-1);
  const bool behind_gelu = k.activation == Activation::gelu;
  Left g{at_row<T>(k.grad_out, first, O), k.grad_out.dtype};
  if (behind_gelu || k.grad_bias) {
    const int64_t groups = group_count(rows), per_group = group_rows(rows);
    G* formed = behind_gelu ? scratch.take<G>(rows * O) : nullptr;
    float* sums = k.grad_bias ? scratch.take<float>(groups * O) : nullptr;
    parallel_items(cpu, groups, [&](int64_t group) {
      gradient_rows(at_row<const T>(k.grad_out, first, O), at_row<const T>(k.pre_activation, first, O), group * per_group,
                    std::min(rows, (group + 1) * per_group), O, formed, sums ? sums + group * O : nullptr);
    });
    for (int64_t group = 0; sums && group < groups; group++) add_row(sums + group * O, O, k.grad_bias.as<float>());
    if (formed) g.data = formed, g.dtype = operand_dtype(k.grad_out.dtype);
  }
  if (k.grad_x) {
    const int64_t I = k.grad_x.dim(-1);
    multiply(cpu, {rows, I, O, k.grad_out.dtype}, g, panels,
             [&](const float* tile, int64_t row, int64_t count, int64_t column, int64_t columns) {
               for (int64_t r = 0; r < count; r++)
                 round_row(tile + r * columns, columns, at_row<T>(k.grad_x, first + row + r, I, column));
             });
  }
  if (k.grad_weight) {
    const int64_t I = k.grad_weight.dim(1);
    g.transposed = true;
    const Right x{at_row<T>(k.x, first, I), k.x.dtype, rows, I, false};
    add_transposed_product(cpu, {O, I, rows, k.x.dtype}, g, x, k.grad_weight.as<float>(), scratch);
  }
}

template <class T, class G>
void backward(Cpu& cpu, const LinearBackward& k, Workspace scratch) {
  const int64_t rows = k.grad_out.rows();
  const void* panels =
      k.grad_x && rows > 0 ? weight_panels(cpu, k.weight, Layout::packed_transposed, k.grad_out.dtype, scratch) : nullptr;
  for (int64_t first = 0; first < rows; first += kGradientRows) {
    backward_step<T, G>(cpu, k, first, std::min(kGradientRows, rows - first), panels, scratch);
  }
}

void linear_forward(Cpu& cpu, const LinearForward& k, Workspace scratch) {
  k.x.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, scratch) : forward<float>(cpu, k, scratch);
}
void linear_backward(Cpu& cpu, const LinearBackward& k, Workspace scratch) {
  if (k.grad_out.dtype == DType::f32)
    backward<float, float>(cpu, k, scratch);
  else if (operand_dtype(DType::bf16) == DType::bf16)
    backward<bf16_t, bf16_t>(cpu, k, scratch);
  else
    backward<bf16_t, float>(cpu, k, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(linear_forward);
HWY_EXPORT(linear_backward);

void run(Cpu& cpu, const LinearForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(linear_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const LinearBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(linear_backward)(cpu, k, scratch); }

int64_t workspace(Cpu& cpu, const LinearForward& k) { return weight_scratch(cpu, k.weight, Layout::packed, k.x.dtype); }

int64_t workspace(Cpu& cpu, const LinearBackward& k) {
  const int64_t O = k.grad_out.dim(-1), all = k.grad_out.rows(), rows = std::min(all, kGradientRows);
  const DType dtype = k.grad_out.dtype;
  int64_t bytes = k.grad_x ? weight_scratch(cpu, k.weight, Layout::packed_transposed, dtype) : 0;
  if (k.activation == Activation::gelu) bytes += Workspace::aligned<std::byte>(rows * O * size_of(operand_dtype(dtype)));
  if (k.grad_bias) bytes += Workspace::aligned<float>(group_count(rows) * O);
  if (k.grad_weight) bytes += transposed_product_bytes(cpu, all, k.grad_weight.dim(1), dtype);
  return bytes;
}

// Between two packed layouts the weight is plain for a moment.
void run(Cpu& cpu, const LinearPack& k, Workspace scratch) {
  const int64_t O = k.weight.dim(0), I = k.weight.dim(1);
  void* plain = k.weight.data;
  DType dtype = k.weight.dtype;
  if (k.weight.layout != Layout::plain) {
    const bool to_plain = k.out.layout == Layout::plain;
    plain = to_plain ? k.out.data : scratch.data;
    dtype = to_plain ? k.out.dtype : operand_dtype(k.weight.dtype);
    unpack(cpu, k.weight.data, k.weight.dtype, right_side(plain, O, I, dtype, k.weight.layout));
  }
  if (k.out.layout != Layout::plain) pack(cpu, right_side(plain, O, I, dtype, k.out.layout), k.out.dtype, k.out.data);
}
int64_t workspace(Cpu&, const LinearPack& k) {
  const bool both_packed = k.weight.layout != Layout::plain && k.out.layout != Layout::plain;
  return both_packed ? k.weight.size() * size_of(operand_dtype(k.weight.dtype)) : 0;
}

SIDETUNE_CPU_KERNEL(LinearForward)
SIDETUNE_CPU_KERNEL(LinearBackward)
SIDETUNE_CPU_KERNEL(LinearPack)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
