#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../elementwise.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 16384;  // numbers that are worth a thread

// Calls body(at, put) for every vector of n numbers, as for_each_vector does, on all threads.
template <class Body>
void for_each_number(const Cpu& cpu, int64_t n, const Body& body) {
  parallel_ranges(cpu, n, kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    for_each_vector(end - begin, [&](size_t, auto at, auto put) HWY_ATTR {
      body([&](const auto* p) HWY_ATTR { return at(p + begin); }, [&](V v, auto* p) HWY_ATTR { put(v, p + begin); });
    });
  });
}

template <class T>
void add(const Cpu& cpu, const Tensor& a_tensor, const Tensor& b_tensor, const Tensor& out_tensor) {
  const T *a = a_tensor.as<T>(), *b = b_tensor.as<T>();
  T* out = out_tensor.as<T>();
  for_each_number(cpu, out_tensor.size(), [=](auto at, auto put) HWY_ATTR { put(hn::Add(at(a), at(b)), out); });
}

template <class T>
void scale(const Cpu& cpu, const Scale& k) {
  const T* x = k.x.as<T>();
  T* out = k.out.as<T>();
  const V factor = hn::Set(F(), k.factor);
  for_each_number(cpu, k.x.size(), [=](auto at, auto put) HWY_ATTR { put(hn::Mul(at(x), factor), out); });
}

template <class From, class To>
void cast(const Cpu& cpu, const Cast& k) {
  const From* x = k.x.as<From>();
  To* out = k.out.as<To>();
  for_each_number(cpu, k.x.size(), [=](auto at, auto put) HWY_ATTR { put(at(x), out); });
}
template <class From>
void cast_from(const Cpu& cpu, const Cast& k) {
  k.out.dtype == DType::bf16 ? cast<From, bf16_t>(cpu, k) : cast<From, float>(cpu, k);
}

template <class T>
void fill(const Cpu& cpu, const Fill& k) {
  T* out = k.out.as<T>();
  const V value = hn::Set(F(), k.value);
  for_each_number(cpu, k.out.size(), [=](auto, auto put) HWY_ATTR { put(value, out); });
}

// out_b = x_b + rowScale_b branch_b; without x, out_b = rowScale_b branch_b.
template <class T>
void residual_add(const Cpu& cpu, const T* x_data, const T* branch_data, const float* row_scale, const Tensor& out_tensor) {
  const int64_t N = out_tensor.dim(1), d = out_tensor.dim(2);
  parallel_ranges(cpu, out_tensor.rows(), std::max<int64_t>(1, kGrain / d), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; row++) {
      const T *x = x_data ? x_data + row * d : nullptr, *branch = branch_data + row * d;
      T* out = out_tensor.as<T>() + row * d;
      const float factor = row_scale[row / N];
      const V scale = hn::Set(F(), factor);
      for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
        const V base = x ? at(x) : hn::Zero(F());
        put(factor == 0 ? base : hn::MulAdd(scale, at(branch), base), out);
      });
    }
  });
}

void add_forward(const Cpu& cpu, const AddForward& k) {
  if (k.out) k.a.dtype == DType::bf16 ? add<bf16_t>(cpu, k.a, k.b, k.out) : add<float>(cpu, k.a, k.b, k.out);
}
void add_into(const Cpu& cpu, const AddInto& k) {
  k.x.dtype == DType::bf16 ? add<bf16_t>(cpu, k.target, k.x, k.target) : add<float>(cpu, k.target, k.x, k.target);
}
void scale_all(const Cpu& cpu, const Scale& k) {
  if (k.out) k.x.dtype == DType::bf16 ? scale<bf16_t>(cpu, k) : scale<float>(cpu, k);
}
void cast_all(const Cpu& cpu, const Cast& k) {
  if (!k.out) return;
  switch (k.x.dtype) {
    case DType::u8:
      return cast_from<uint8_t>(cpu, k);
    case DType::bf16:
      return cast_from<bf16_t>(cpu, k);
    default:
      return cast_from<float>(cpu, k);
  }
}
void fill_all(const Cpu& cpu, const Fill& k) {
  if (k.out) k.out.dtype == DType::bf16 ? fill<bf16_t>(cpu, k) : fill<float>(cpu, k);
}

template <class T>
void residual_add_forward_as(const Cpu& cpu, const ResidualAddForward& k) {
  residual_add(cpu, k.x.as<const T>(), k.branch.as<const T>(), k.row_scale.as<float>(), k.out);
}
void residual_add_forward(const Cpu& cpu, const ResidualAddForward& k) {
  if (k.out) k.x.dtype == DType::bf16 ? residual_add_forward_as<bf16_t>(cpu, k) : residual_add_forward_as<float>(cpu, k);
}
template <class T>
void residual_add_backward_as(const Cpu& cpu, const ResidualAddBackward& k) {
  residual_add<T>(cpu, nullptr, k.grad_out.as<const T>(), k.row_scale.as<float>(), k.grad_branch);
}
void residual_add_backward(const Cpu& cpu, const ResidualAddBackward& k) {
  if (k.grad_branch)
    k.grad_out.dtype == DType::bf16 ? residual_add_backward_as<bf16_t>(cpu, k) : residual_add_backward_as<float>(cpu, k);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(add_forward);
HWY_EXPORT(add_into);
HWY_EXPORT(scale_all);
HWY_EXPORT(cast_all);
HWY_EXPORT(fill_all);
HWY_EXPORT(residual_add_forward);
HWY_EXPORT(residual_add_backward);

void run(Cpu& cpu, const AddForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(add_forward)(cpu, k); }
void run(Cpu& cpu, const AddInto& k, Workspace) { HWY_DYNAMIC_DISPATCH(add_into)(cpu, k); }
void run(Cpu& cpu, const Scale& k, Workspace) { HWY_DYNAMIC_DISPATCH(scale_all)(cpu, k); }
void run(Cpu& cpu, const Cast& k, Workspace) { HWY_DYNAMIC_DISPATCH(cast_all)(cpu, k); }
void run(Cpu& cpu, const Fill& k, Workspace) { HWY_DYNAMIC_DISPATCH(fill_all)(cpu, k); }
void run(Cpu& cpu, const ResidualAddForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(residual_add_forward)(cpu, k); }
void run(Cpu& cpu, const ResidualAddBackward& k, Workspace) { HWY_DYNAMIC_DISPATCH(residual_add_backward)(cpu, k); }

SIDETUNE_CPU_KERNEL(AddForward)
SIDETUNE_CPU_KERNEL(AddInto)
SIDETUNE_CPU_KERNEL(Scale)
SIDETUNE_CPU_KERNEL(Cast)
SIDETUNE_CPU_KERNEL(Fill)
SIDETUNE_CPU_KERNEL(ResidualAddForward)
SIDETUNE_CPU_KERNEL(ResidualAddBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
