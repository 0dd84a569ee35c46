#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/linear.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "gelu_slope-inl.h"
#include "math-inl.h"
// clang-format on

#include <cmath>

#include "../linear.h"
#include "gemm.h"
#include "int8.h"
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

// A row of a tile, as numbers. Both read whole vectors: a tile's buffer has room for them behind its last row.
struct TileRow {
  const float* numbers;
  HWY_INLINE V operator()(size_t i) const { return load(numbers + i); }
};
struct Int8TileRow {
  const int32_t* products;
  Int8Row row;
  const float* scales;
  const int32_t* weight_sums;
  HWY_INLINE V operator()(size_t i) const {
    const hn::Rebind<int32_t, F> i32;
    const auto sum = hn::Sub(hn::LoadU(i32, products + i), hn::Mul(hn::Set(i32, row.zero), hn::LoadU(i32, weight_sums + i)));
    return hn::Mul(hn::ConvertTo(F(), sum), hn::Mul(hn::Set(F(), row.step), load(scales + i)));
  }
};

// GELU, as exact as the result's dtype can tell.
HWY_INLINE V gelu_of(V v, const float*) { return gelu(v); }
HWY_INLINE V gelu_of(V v, const bf16_t*) { return gelu_for_half(v); }
HWY_INLINE GeluAndDerivative both_of_gelu(V v, const float*) { return gelu_and_derivative(v); }
HWY_INLINE GeluAndDerivative both_of_gelu(V v, const bf16_t*) { return gelu_and_derivative_for_half(v); }

// out = GELU(numbers + bias) and its slope.
template <class T, class Row>
void finish_row_with_slope(const Row& numbers, const float* bias, int64_t columns, SlopeOf<T>* slope, T* out) {
  for_each_vector(columns, [&](size_t i, auto at, auto put) HWY_ATTR {
    V v = numbers(i);
    if (bias) v = hn::Add(v, at(bias));
    const GeluAndDerivative gelu = both_of_gelu(v, out);
    put(to_slope(gelu.derivative, slope), slope);
    put(gelu.value, out);
  });
}

// out = numbers + bias, behind it GELU or + residual, for one row of a tile; pre as it stands before GELU.
template <class T, class Row>
void finish_row(const Row& numbers, const float* bias, bool gelu_behind, const T* residual, int64_t columns, T* pre, T* out) {
  for_each_vector(columns, [&](size_t i, auto at, auto put) HWY_ATTR {
    V v = numbers(i);
    if (bias) v = hn::Add(v, at(bias));
    if (pre) put(v, pre);
    if (gelu_behind) v = gelu_of(v, out);
    if (residual) v = hn::Add(v, at(residual));
    put(v, out);
  });
}

// What a row's numbers span, 0 among them.
struct Span {
  V low, high, rest;
  HWY_INLINE void add(V v) {
    low = hn::Min(low, v);
    high = hn::Max(high, v);
    rest = hn::MulAdd(v, hn::Zero(F()), rest);  // NaN as soon as a number is not finite
  }
  HWY_INLINE void add(const Span& other) {
    low = hn::Min(low, other.low);
    high = hn::Max(high, other.high);
    rest = hn::Add(rest, other.rest);
  }
};
// Four at a time: one would wait for itself.
template <class T>
HWY_INLINE Span span_of(const T* x, int64_t count) {
  const int64_t step = static_cast<int64_t>(lanes());
  const V zero = hn::Zero(F());
  Span a{zero, zero, zero}, b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * step <= count; i += 4 * step) {
    a.add(load(x + i));
    b.add(load(x + i + step));
    c.add(load(x + i + 2 * step));
    d.add(load(x + i + 3 * step));
  }
  for_each_vector(count - i, [&](size_t, auto at, auto) HWY_ATTR { a.add(at(x + i)); });
  a.add(b);
  c.add(d);
  a.add(c);
  return a;
}

// Rounds a row of x to 8 bits (int8.h). A step that is hardly a normal number counts as 0: 1 / step would not be finite.
template <class T>
Int8Row quantise_row(const T* x, int64_t count, int levels, uint8_t* q) {
  const Span span = span_of(x, count);
  const float most = static_cast<float>(levels), lowest = -max(hn::Neg(span.low));
  const float step = max(span.high) / most - lowest / most + sum(span.rest);
  if (!(step > 1e-37f)) {
    std::memset(q, 0, count);
    return {step > 0 ? 0 : step, 0};
  }
  const float zero = std::nearbyint(-lowest / step);
  const V per_step = hn::Set(F(), 1 / step), start = hn::Set(F(), zero), top = hn::Set(F(), most);
  for_each_vector(count, [&](size_t, auto at, auto put)
                             HWY_ATTR { put(hn::Min(hn::Max(hn::MulAdd(at(x), per_step, start), hn::Zero(F())), top), q); });
  return {step, static_cast<int32_t>(zero)};
}

// A row of W to int8 (int8.h), and its scale and sum, which is exact in f32.
template <class T>
void quantise_output(const T* w, int64_t I, int8_t* q, float* scale, int32_t* weight_sum) {
  const Span span = span_of(w, I);
  *scale = max(hn::Max(span.high, hn::Neg(span.low))) / 127 + sum(span.rest);
  *weight_sum = 0;
  if (!(*scale > 1e-37f)) {
    std::memset(q, 0, I);
    return;
  }
  const V per_step = hn::Set(F(), 1 / *scale);
  V total = hn::Zero(F());
  for_each_vector(I, [&](size_t, auto at, auto put) HWY_ATTR {
    const V rounded = clamp(hn::Round(hn::Mul(at(w), per_step)), 127);
    total = hn::Add(total, rounded);
    put(rounded, q);
  });
  *weight_sum = static_cast<int32_t>(sum(total));
}
template <class T>
void quantise(Cpu& cpu, const Tensor& from, int8_t* q, const Int8Weight& to) {
  const int64_t O = from.dim(0), I = from.dim(1);
  std::memset(to.scales + O, 0, (Int8Weight::padded(O) - O) * sizeof(float));
  std::memset(to.sums + O, 0, (Int8Weight::padded(O) - O) * sizeof(int32_t));
  parallel_items(cpu, O, [&](int64_t o) { quantise_output(from.as<T>() + o * I, I, q + o * I, to.scales + o, to.sums + o); });
}
void quantise_weight(Cpu& cpu, const Tensor& from, int8_t* q, const Int8Weight& to) {
  from.dtype == DType::bf16 ? quantise<bf16_t>(cpu, from, q, to) : quantise<float>(cpu, from, q, to);
}

template <class T>
void dequantise_output(const int8_t* q, int64_t I, float scale, T* w) {
  const V times = hn::Set(F(), scale);
  for_each_vector(I, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Mul(times, at(q)), w); });
}
template <class T>
void dequantise(Cpu& cpu, const int8_t* q, const Int8Weight& from, const Tensor& to) {
  const int64_t O = to.dim(0), I = to.dim(1);
  parallel_items(cpu, O, [&](int64_t o) { dequantise_output(q + o * I, I, from.scales[o], to.as<T>() + o * I); });
}
void dequantise_weight(Cpu& cpu, const int8_t* q, const Int8Weight& from, const Tensor& to) {
  to.dtype == DType::bf16 ? dequantise<bf16_t>(cpu, q, from, to) : dequantise<float>(cpu, q, from, to);
}

template <class T, class Finish>
void multiply_int8(Cpu& cpu, const LinearForward& k, Workspace scratch, const Finish& finish) {
  const int64_t rows = k.x.rows(), I = k.x.dim(-1), O = k.weight.dim(0);
  const Int8Weight weight(cpu, k.weight);
  const int levels = int8_levels();
  uint8_t* q = scratch.take<uint8_t>(rows * I);
  Int8Row* steps = scratch.take<Int8Row>(rows);
  parallel_ranges(cpu, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) steps[row] = quantise_row(k.x.as<T>() + row * I, I, levels, q + row * I);
  });
  multiply(cpu, {rows, O, I, DType::i8}, Left{q, DType::u8}, weight.panels,
           [&](const void* tile, int64_t row, int64_t count, int64_t column, int64_t columns) {
             const auto* products = static_cast<const int32_t*>(tile);
             for (int64_t r = 0; r < count; r++) {
               finish(Int8TileRow{products + r * columns, steps[row + r], weight.scales + column, weight.sums + column}, row + r,
                      column, columns);
             }
           });
}

template <class T>
void forward(Cpu& cpu, const LinearForward& k, Workspace scratch) {
  const int64_t I = k.x.dim(-1), O = k.weight.dim(0);
  const auto finish = [&](const auto& numbers, int64_t row, int64_t column, int64_t columns) {
    const float* bias = k.bias ? k.bias.as<float>() + column : nullptr;
    if (k.slope) {
      return finish_row_with_slope(numbers, bias, columns, at_row<SlopeOf<T>>(k.slope, row, O, column),
                                   at_row<T>(k.out, row, O, column));
    }
    finish_row(numbers, bias, k.activation == Activation::gelu, at_row<const T>(k.residual, row, O, column), columns,
               at_row<T>(k.pre_activation, row, O, column), at_row<T>(k.out, row, O, column));
  };
  if (k.weight.dtype == DType::i8) return multiply_int8<T>(cpu, k, scratch, finish);
  const void* panels = weight_panels(cpu, k.weight, Layout::packed, k.x.dtype, scratch);
  multiply(cpu, {k.x.rows(), O, I, k.x.dtype}, Left{k.x.data, k.x.dtype}, panels,
           [&](const void* tile, int64_t row, int64_t rows, int64_t column, int64_t columns) {
             const auto* numbers = static_cast<const float*>(tile);
             for (int64_t r = 0; r < rows; r++) finish(TileRow{numbers + r * columns}, row + r, column, columns);
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

// A row of a tile of gradX, behind a GELU that x came out of if its slope is given, and added to `residual` if that is.
template <class T>
void finish_gradient_row(const float* tile, const SlopeOf<T>* slope, const T* residual, int64_t columns, T* grad_x) {
  for_each_vector(columns, [&](size_t, auto at, auto put) HWY_ATTR {
    V v = at(tile);
    if (slope) v = hn::Mul(v, from_slope(at(slope), slope));
    if (residual) v = hn::Add(v, at(residual));
    put(v, grad_x);
  });
}

// Rows [first, …) of gradX = g W.
template <class T>
void multiply_gradient(Cpu& cpu, const Product& product, const Left& g, const void* panels, const Tensor& x_slope,
                       const Tensor& residual, const Tensor& grad_x, int64_t first) {
  const int64_t I = grad_x.dim(-1);
  multiply(cpu, product, g, panels, [&](const void* tile, int64_t row, int64_t count, int64_t column, int64_t columns) {
    for (int64_t r = 0; r < count; r++) {
      finish_gradient_row(
          static_cast<const float*>(tile) + r * columns, at_row<const SlopeOf<T>>(x_slope, first + row + r, I, column),
          at_row<const T>(residual, first + row + r, I, column), columns, at_row<T>(grad_x, first + row + r, I, column));
    }
  });
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
    multiply_gradient<T>(cpu, {rows, k.grad_x.dim(-1), O, k.grad_out.dtype}, g, panels, k.x_slope, k.residual, k.grad_x, first);
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

template <class T>
void add_forward(Cpu& cpu, const LinearAddForward& k, Workspace scratch) {
  const int64_t W = k.y.dim(-1), I = k.x.dim(-1), O = k.weight.dim(0);
  const void* panels = weight_panels(cpu, k.weight, Layout::packed, k.x.dtype, scratch);
  multiply(cpu, {k.x.rows(), O, I, k.x.dtype}, Left{k.x.data, k.x.dtype}, panels,
           [&](const void* tile, int64_t row, int64_t rows, int64_t column, int64_t columns) {
             const auto* numbers = static_cast<const float*>(tile);
             for (int64_t r = 0; r < rows; r++, numbers += columns) {
               T* y = at_row<T>(k.y, row + r, W, k.column + column);
               for_each_vector(columns, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(y), at(numbers)), y); });
             }
           });
}

template <class T>
void add_backward(Cpu& cpu, const LinearAddBackward& k, Workspace scratch) {
  const int64_t rows = k.grad_out.rows(), W = k.grad_out.dim(-1), O = k.outputs();
  const DType dtype = k.grad_out.dtype;
  const void* panels = k.grad_x && rows > 0 ? weight_panels(cpu, k.weight, Layout::packed_transposed, dtype, scratch) : nullptr;
  for (int64_t first = 0; first < rows; first += kGradientRows) {
    const int64_t count = std::min(kGradientRows, rows - first);
    Left window{at_row<T>(k.grad_out, first, W, k.column), dtype};
    window.leading = W;
    if (k.grad_x) multiply_gradient<T>(cpu, {count, k.grad_x.dim(-1), O, dtype}, window, panels, {}, {}, k.grad_x, first);
    if (k.grad_weight) {
      const int64_t I = k.grad_weight.dim(1);
      window.transposed = true;
      const Right x{at_row<T>(k.x, first, I), dtype, count, I, false};
      add_transposed_product(cpu, {O, I, count, dtype}, window, x, k.grad_weight.as<float>(), scratch);
    }
  }
}

void linear_add_forward(Cpu& cpu, const LinearAddForward& k, Workspace scratch) {
  k.y.dtype == DType::bf16 ? add_forward<bf16_t>(cpu, k, scratch) : add_forward<float>(cpu, k, scratch);
}
void linear_add_backward(Cpu& cpu, const LinearAddBackward& k, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? add_backward<bf16_t>(cpu, k, scratch) : add_backward<float>(cpu, k, scratch);
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
HWY_EXPORT(linear_add_forward);
HWY_EXPORT(linear_add_backward);
HWY_EXPORT(quantise_weight);
HWY_EXPORT(dequantise_weight);

void run(Cpu& cpu, const LinearForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(linear_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const LinearBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(linear_backward)(cpu, k, scratch); }
void run(Cpu& cpu, const LinearAddForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(linear_add_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const LinearAddBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(linear_add_backward)(cpu, k, scratch); }

int64_t workspace(Cpu& cpu, const LinearForward& k) {
  if (k.weight.dtype == DType::i8) return Workspace::aligned<uint8_t>(k.x.size()) + Workspace::aligned<Int8Row>(k.x.rows());
  return weight_scratch(cpu, k.weight, Layout::packed, k.x.dtype);
}

int64_t workspace(Cpu& cpu, const LinearBackward& k) {
  const int64_t O = k.grad_out.dim(-1), all = k.grad_out.rows(), rows = std::min(all, kGradientRows);
  const DType dtype = k.grad_out.dtype;
  int64_t bytes = k.grad_x ? weight_scratch(cpu, k.weight, Layout::packed_transposed, dtype) : 0;
  if (k.activation == Activation::gelu) bytes += Workspace::aligned<std::byte>(rows * O * size_of(operand_dtype(dtype)));
  if (k.grad_bias) bytes += Workspace::aligned<float>(group_count(rows) * O);
  if (k.grad_weight) bytes += transposed_product_bytes(cpu, all, k.grad_weight.dim(1), dtype);
  return bytes;
}

int64_t workspace(Cpu& cpu, const LinearAddForward& k) { return weight_scratch(cpu, k.weight, Layout::packed, k.x.dtype); }

int64_t workspace(Cpu& cpu, const LinearAddBackward& k) {
  const DType dtype = k.grad_out.dtype;
  return (k.grad_x ? Workspace::aligned<std::byte>(weight_scratch(cpu, k.weight, Layout::packed_transposed, dtype)) : 0) +
         (k.grad_weight ? transposed_product_bytes(cpu, k.grad_out.rows(), k.grad_weight.dim(1), dtype) : 0);
}

namespace {

Tensor plain_like(const Tensor& weight, DType dtype, void* data) {
  Tensor plain = weight;
  plain.layout = Layout::plain, plain.dtype = dtype, plain.data = data;
  return plain;
}

// The dtype of a plain copy between two packed layouts.
DType between(const LinearPack& k) { return operand_dtype(k.weight.dtype == DType::i8 ? k.out.dtype : k.weight.dtype); }

}  // namespace

// Between two packed layouts the weight is plain for a moment.
void run(Cpu& cpu, const LinearPack& k, Workspace scratch) {
  const int64_t O = k.weight.dim(0), I = k.weight.dim(1);
  const bool to_plain = k.out.layout == Layout::plain;
  Tensor plain = k.weight;
  if (k.weight.layout != Layout::plain) {
    const DType dtype = to_plain ? k.out.dtype : between(k);
    plain = plain_like(k.weight, dtype, to_plain ? k.out.data : scratch.take<std::byte>(O * I * size_of(dtype)));
    if (k.weight.dtype == DType::i8) {
      Workspace rest = scratch;
      auto* q = rest.take<int8_t>(O * I);
      unpack(cpu, k.weight.data, DType::i8, right_side(q, O, I, DType::i8, Layout::packed));
      HWY_DYNAMIC_DISPATCH(dequantise_weight)(cpu, q, Int8Weight(cpu, k.weight), plain);
    } else {
      unpack(cpu, k.weight.data, k.weight.dtype, right_side(plain.data, O, I, dtype, k.weight.layout));
    }
  }
  if (to_plain) return;
  if (k.out.dtype == DType::i8) {
    const Int8Weight weight(cpu, k.out);
    auto* q = scratch.take<int8_t>(O * I);
    HWY_DYNAMIC_DISPATCH(quantise_weight)(cpu, plain, q, weight);
    pack(cpu, right_side(q, O, I, DType::i8, Layout::packed), DType::i8, weight.panels);
  } else {
    pack(cpu, right_side(plain.data, O, I, plain.dtype, k.out.layout), k.out.dtype, k.out.data);
  }
}
int64_t workspace(Cpu&, const LinearPack& k) {
  const bool both_packed = k.weight.layout != Layout::plain && k.out.layout != Layout::plain;
  const bool int8 = k.weight.dtype == DType::i8 || k.out.dtype == DType::i8;
  return (both_packed ? Workspace::aligned<std::byte>(k.weight.size() * size_of(between(k))) : 0) +
         (int8 ? Workspace::aligned<int8_t>(k.weight.size()) : 0);
}

SIDETUNE_CPU_KERNEL(LinearForward)
SIDETUNE_CPU_KERNEL(LinearBackward)
SIDETUNE_CPU_KERNEL(LinearPack)
SIDETUNE_CPU_KERNEL(LinearAddForward)
SIDETUNE_CPU_KERNEL(LinearAddBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
