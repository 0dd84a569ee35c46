#include "../linear.h"

#include "convert.cuh"
#include "each.cuh"
#include "gelu_slope.cuh"
#include "gemm.cuh"
#include "math.cuh"
#include "reduce.cuh"

namespace sidetune::cuda {
namespace {

// Behind a product: pre = sums, unless it is null, and out = GELU(sums). `sums` may be either itself.
template <class T>
struct GeluBehind {
  const float* sums;
  T *pre, *out;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> numbers = load<V>(sums + i);
    if (pre) store(pre + i, numbers);
    for (int n = 0; n < V; n++) numbers[n] = gelu(numbers[n]);
    store(out + i, numbers);
  }
};

// Behind a product: out = GELU(sums) and its slope. `sums` may be out itself.
template <class T>
struct GeluAndSlopeBehind {
  const float* sums;
  SlopeOf<T>* slope;
  T* out;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> numbers = load<V>(sums + i), slopes;
    for (int n = 0; n < V; n++) {
      const GeluAndDerivative both = gelu_and_derivative(numbers[n]);
      numbers[n] = both.value, slopes[n] = to_slope(both.derivative, slope);
    }
    store(slope + i, slopes);
    store(out + i, numbers);
  }
};

// Behind a product: gradX ← gradX ∘ slope. In bf16 the product has been rounded; the slope, in bytes there, is no finer.
template <class T>
struct GradientBehind {
  const SlopeOf<T>* slope;
  T* grad_x;
  template <int V>
  __device__ void at(int64_t i) const {
    Numbers<V> numbers = load<V>(grad_x + i);
    const Numbers<V> slopes = load<V>(slope + i);
    for (int n = 0; n < V; n++) numbers[n] *= from_slope(slopes[n], slope);
    store(grad_x + i, numbers);
  }
};

// Before the products: g = gradOut ∘ GELU'(pre), which is added up before it is rounded.
template <class T>
struct GradientBefore {
  const T *grad_out, *pre;
  T* g;
  template <int V>
  struct Loaded {
    Numbers<V> gradient, pre;
  };
  template <int V>
  __device__ Loaded<V> load(int64_t i) const {
    return {cuda::load<V>(grad_out + i), cuda::load<V>(pre + i)};
  }
  template <int V>
  __device__ Numbers<V> finish(int64_t i, const Loaded<V>& loaded) const {
    Numbers<V> numbers = loaded.gradient;
    for (int n = 0; n < V; n++) numbers[n] *= gelu_derivative(loaded.pre[n]);
    store(g + i, numbers);
    return numbers;
  }
};

void* at_row(const Tensor& tensor, int64_t row) {
  return tensor ? tensor.as<std::byte>() + row * tensor.dim(-1) * size_of(tensor.dtype) : nullptr;
}

// The weight in the dtype of the products, rounded into scratch if need be.
bool is_rounded(const Tensor& weight, DType dtype) { return weight.dtype != dtype; }
const void* operand(Cuda& cuda, const Tensor& weight, DType dtype, Workspace& scratch) {
  if (!is_rounded(weight, dtype)) return weight.data;
  void* rounded = scratch.take<std::byte>(weight.size() * size_of(dtype));
  convert(cuda, weight.data, weight.dtype, rounded, dtype, weight.size());
  return rounded;
}
int64_t operand_bytes(const Tensor& weight, DType dtype) {
  return is_rounded(weight, dtype) ? Workspace::aligned<std::byte>(weight.size() * size_of(dtype)) : 0;
}

// Rows [first, first + count) of x Wᵀ + bias + residual.
Product forward_product(const LinearForward& k, const void* weight, int64_t first, int64_t count) {
  const int64_t I = k.x.dim(-1), O = k.weight.dim(0);
  Product p{count, O, I, k.x.dtype, {at_row(k.x, first), I}, {weight, I, true}, at_row(k.out, first), k.x.dtype, O};
  p.bias = k.bias.as<float>();
  p.addend = at_row(k.residual, first);
  return p;
}

// Of g W + residual.
Product backward_product(const LinearBackward& k, const void* g, const void* weight, int64_t first, int64_t count) {
  const int64_t I = k.weight.dim(1), O = k.weight.dim(0);
  const DType dtype = k.grad_out.dtype;
  Product p{count, I, O, dtype, {g, O}, {weight, I}, at_row(k.grad_x, first), dtype, I};
  p.addend = at_row(k.residual, first);
  return p;
}

// Adds the part of those rows to gradWeight.
Product weight_product(const LinearBackward& k, const void* g, int64_t first, int64_t count) {
  const int64_t O = k.grad_weight.dim(0), I = k.grad_weight.dim(1);
  Product p{O, I, count, k.grad_out.dtype, {g, O, true}, {at_row(k.x, first), I}, k.grad_weight.data, DType::f32, I};
  p.addend = k.grad_weight.data;
  return p;
}

// Sums in f32 of `width` numbers a row stand in scratch where the result is bf16; elsewhere in the result.
int64_t sums_bytes(DType dtype, int64_t width) { return dtype == DType::bf16 ? width * size_of(DType::f32) : 0; }

// LinearAdd's window. (Devices that do not multiply bf16 widen a copy of it.)
void* window_of(const Tensor& rows, int64_t column) { return rows.as<std::byte>() + column * size_of(rows.dtype); }

Product window_product(const LinearAddForward& k, const void* weight) {
  const int64_t W = k.y.dim(-1), I = k.x.dim(-1), O = k.weight.dim(0);
  void* window = window_of(k.y, k.column);
  Product p{k.y.rows(), O, I, k.y.dtype, {k.x.data, I}, {weight, I, true}, window, k.y.dtype, W};
  p.addend = window;
  return p;
}

// Of g W, and of gᵀ x.
Product window_product(const LinearAddBackward& k, const void* weight) {
  const int64_t W = k.grad_out.dim(-1), I = k.grad_x.dim(-1);
  const DType dtype = k.grad_out.dtype;
  const Matrix g{window_of(k.grad_out, k.column), W};
  return {k.grad_out.rows(), I, k.outputs(), dtype, g, {weight, I}, k.grad_x.data, dtype, I};
}
Product window_weight_product(const LinearAddBackward& k) {
  const int64_t W = k.grad_out.dim(-1), I = k.grad_weight.dim(1);
  const Matrix g{window_of(k.grad_out, k.column), W, true};
  Product p{k.outputs(), I, k.grad_out.rows(), k.grad_out.dtype, g, {k.x.data, I}, k.grad_weight.data, DType::f32, I};
  p.addend = k.grad_weight.data;
  return p;
}

// Scratch for each row of a step.
int64_t row_bytes(const LinearForward& k) { return k.activation == Activation::gelu ? sums_bytes(k.x.dtype, k.out.dim(-1)) : 0; }
int64_t row_bytes(const LinearBackward& k) {
  const int64_t O = k.grad_out.dim(-1);
  return (k.activation == Activation::gelu ? O * size_of(k.grad_out.dtype) : 0) +
         (k.grad_bias ? divide_up(O * size_of(DType::f32), kGroupRows) : 0);
}

template <class T>
void forward(Cuda& cuda, const LinearForward& k, Workspace scratch) {
  const int64_t rows = k.x.rows(), O = k.out.dim(-1), step = step_rows(rows, row_bytes(k));
  const void* weight = operand(cuda, k.weight, k.x.dtype, scratch);
  if (k.activation == Activation::none) return multiply(cuda, forward_product(k, weight, 0, rows), scratch);
  float* sums = k.x.dtype == DType::bf16 ? scratch.take<float>(step * O) : nullptr;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    T *pre = static_cast<T*>(at_row(k.pre_activation, first)), *out = static_cast<T*>(at_row(k.out, first));
    Product p = forward_product(k, weight, first, count);
    p.out = sums ? static_cast<void*>(sums) : pre ? pre : out;
    p.out_dtype = DType::f32;
    multiply(cuda, p, scratch);
    const auto* behind = static_cast<const float*>(p.out);
    if (auto* slope = static_cast<SlopeOf<T>*>(at_row(k.slope, first)))
      each(cuda, count * O, GeluAndSlopeBehind<T>{behind, slope, out});
    else
      each(cuda, count * O, GeluBehind<T>{behind, p.out == pre ? nullptr : pre, out});
  }
}

template <class T>
void backward(Cuda& cuda, const LinearBackward& k, Workspace scratch) {
  const int64_t rows = k.grad_out.rows(), O = k.grad_out.dim(-1), step = step_rows(rows, row_bytes(k));
  const DType dtype = k.grad_out.dtype;
  const void* weight = k.grad_x ? operand(cuda, k.weight, dtype, scratch) : nullptr;
  T* formed = k.activation == Activation::gelu ? scratch.take<T>(step * O) : nullptr;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    const void* g = at_row(k.grad_out, first);
    float* grad_bias = k.grad_bias.as<float>();
    if (formed) {
      Workspace rest = scratch;
      float* groups = grad_bias ? rest.take<float>(group_count(count) * O) : nullptr;
      const T* pre = static_cast<const T*>(at_row(k.pre_activation, first));
      group_sums(cuda, GradientBefore<T>{static_cast<const T*>(g), pre, formed}, count, O, groups);
      if (grad_bias) add_groups(cuda, groups, group_count(count), O, O, grad_bias);
      g = formed;
    } else if (grad_bias) {
      add_column_sums(cuda, g, dtype, count, O, grad_bias, scratch);
    }
    if (k.grad_x) {
      const Product p = backward_product(k, g, weight, first, count);
      multiply(cuda, p, scratch);
      if (k.x_slope) {
        const auto* slope = static_cast<const SlopeOf<T>*>(at_row(k.x_slope, first));
        each(cuda, count * p.columns, GradientBehind<T>{slope, static_cast<T*>(p.out)});
      }
    }
    if (k.grad_weight) multiply(cuda, weight_product(k, g, first, count), scratch);
  }
}

}  // namespace

void run(Cuda& cuda, const LinearForward& k, Workspace scratch) {
  dispatch(k.x.dtype, [&](auto type) { forward<typename decltype(type)::type>(cuda, k, scratch); });
}
void run(Cuda& cuda, const LinearBackward& k, Workspace scratch) {
  dispatch(k.grad_out.dtype, [&](auto type) { backward<typename decltype(type)::type>(cuda, k, scratch); });
}

int64_t workspace(Cuda& cuda, const LinearForward& k) {
  const int64_t step = step_rows(k.x.rows(), row_bytes(k));
  Product p = forward_product(k, nullptr, 0, step);
  if (k.activation == Activation::gelu) p.out_dtype = DType::f32;
  return operand_bytes(k.weight, k.x.dtype) + Workspace::aligned<std::byte>(step * row_bytes(k)) + product_scratch(cuda, p);
}

int64_t workspace(Cuda& cuda, const LinearBackward& k) {
  const int64_t O = k.grad_out.dim(-1), step = step_rows(k.grad_out.rows(), row_bytes(k));
  const DType dtype = k.grad_out.dtype;
  int64_t bytes = k.grad_x ? operand_bytes(k.weight, dtype) : 0;
  if (k.activation == Activation::gelu) bytes += Workspace::aligned<std::byte>(step * O * size_of(dtype));
  // One after the other, in the same memory.
  int64_t shared = k.grad_bias ? column_sums_scratch(step, O) : 0;
  if (k.grad_x) shared = std::max(shared, product_scratch(cuda, backward_product(k, nullptr, nullptr, 0, step)));
  if (k.grad_weight) shared = std::max(shared, product_scratch(cuda, weight_product(k, nullptr, 0, step)));
  return bytes + shared;
}

// Both packed layouts are the plain rows (backend.cu).
void run(Cuda& cuda, const LinearPack& k, Workspace) {
  convert(cuda, k.weight.data, k.weight.dtype, k.out.data, k.out.dtype, k.weight.size());
}

void run(Cuda& cuda, const LinearAddForward& k, Workspace scratch) {
  const void* weight = operand(cuda, k.weight, k.y.dtype, scratch);
  multiply(cuda, window_product(k, weight), scratch);
}

void run(Cuda& cuda, const LinearAddBackward& k, Workspace scratch) {
  if (k.grad_weight) multiply(cuda, window_weight_product(k), scratch);
  if (!k.grad_x) return;
  const void* weight = operand(cuda, k.weight, k.grad_out.dtype, scratch);
  multiply(cuda, window_product(k, weight), scratch);
}

int64_t workspace(Cuda& cuda, const LinearAddForward& k) {
  return operand_bytes(k.weight, k.y.dtype) + product_scratch(cuda, window_product(k, nullptr));
}

int64_t workspace(Cuda& cuda, const LinearAddBackward& k) {
  const int64_t for_weight = k.grad_weight ? product_scratch(cuda, window_weight_product(k)) : 0;
  if (!k.grad_x) return for_weight;
  return std::max(for_weight, operand_bytes(k.weight, k.grad_out.dtype) + product_scratch(cuda, window_product(k, nullptr)));
}

SIDETUNE_CUDA_KERNEL(LinearForward)
SIDETUNE_CUDA_KERNEL(LinearBackward)
SIDETUNE_CUDA_KERNEL(LinearPack)
SIDETUNE_CUDA_KERNEL(LinearAddForward)
SIDETUNE_CUDA_KERNEL(LinearAddBackward)

}  // namespace sidetune::cuda
