#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/scale_shift.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../scale_shift.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void scale_row(const T* HWY_RESTRICT x, const float* scale, const float* shift, int64_t d, T* HWY_RESTRICT out) {
  for_each_vector(d, [&](size_t, auto at, auto put)
                         HWY_ATTR { put(shift ? hn::MulAdd(at(x), at(scale), at(shift)) : hn::Mul(at(x), at(scale)), out); });
}

// One row of all gradients: of x into `grad_x`, of the parameters into a group's partial sums (null where unwanted). `start`:
// the sums begin here.
template <class T>
void gradient_row(const T* grad_out, const T* x, const float* scale, int64_t d, bool start, T* grad_x, float* scale_sum,
                  float* shift_sum) {
  for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
    const V gradient = at(grad_out);
    if (scale_sum) put(start ? hn::Mul(gradient, at(x)) : hn::MulAdd(gradient, at(x), at(scale_sum)), scale_sum);
    if (shift_sum) put(start ? gradient : hn::Add(at(shift_sum), gradient), shift_sum);
    if (grad_x) put(hn::Mul(gradient, at(scale)), grad_x);
  });
}

// out = x ∘ scale + shift; without shift the gradient of x.
template <class T>
void scale_rows(const Cpu& cpu, const Tensor& x, const Tensor& scale, const float* shift, const Tensor& out) {
  const int64_t d = x.dim(-1);
  parallel_ranges(cpu, x.rows(), 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      scale_row(x.as<T>() + row * d, scale.as<float>(), shift, d, out.as<T>() + row * d);
    }
  });
}

template <class T>
void backward(const Cpu& cpu, const ScaleShiftBackward& k, Workspace scratch) {
  if (!k.grad_scale && !k.grad_shift) {
    if (k.grad_x) scale_rows<T>(cpu, k.grad_out, k.scale, nullptr, k.grad_x);
    return;
  }
  const int64_t d = k.grad_out.dim(-1), rows = k.grad_out.rows(), groups = group_count(rows), per_group = group_rows(rows);
  const T *grad_out = k.grad_out.as<T>(), *x = k.grad_scale ? k.x.as<T>() : nullptr;
  const float* scale = k.grad_x ? k.scale.as<float>() : nullptr;
  T* grad_x = k.grad_x ? k.grad_x.as<T>() : nullptr;
  float* scale_sums = k.grad_scale ? scratch.take<float>(groups * d) : nullptr;
  float* shift_sums = k.grad_shift ? scratch.take<float>(groups * d) : nullptr;
  parallel_items(cpu, groups, [&](int64_t group) {
    const int64_t begin = group * per_group, end = std::min(rows, begin + per_group);
    for (int64_t row = begin; row < end; row++) {
      gradient_row(grad_out + row * d, x ? x + row * d : nullptr, scale, d, row == begin, grad_x ? grad_x + row * d : nullptr,
                   scale_sums ? scale_sums + group * d : nullptr, shift_sums ? shift_sums + group * d : nullptr);
    }
  });
  for (int64_t group = 0; group < groups; group++) {
    if (scale_sums) add_row(scale_sums + group * d, d, k.grad_scale.as<float>());
    if (shift_sums) add_row(shift_sums + group * d, d, k.grad_shift.as<float>());
  }
}

void scale_shift_forward(const Cpu& cpu, const ScaleShiftForward& k) {
  const float* shift = k.shift.as<float>();
  k.x.dtype == DType::bf16 ? scale_rows<bf16_t>(cpu, k.x, k.scale, shift, k.out)
                           : scale_rows<float>(cpu, k.x, k.scale, shift, k.out);
}
void scale_shift_backward(const Cpu& cpu, const ScaleShiftBackward& k, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, scratch) : backward<float>(cpu, k, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(scale_shift_forward);
HWY_EXPORT(scale_shift_backward);

void run(Cpu& cpu, const ScaleShiftForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(scale_shift_forward)(cpu, k); }
void run(Cpu& cpu, const ScaleShiftBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(scale_shift_backward)(cpu, k, scratch);
}

int64_t workspace(Cpu&, const ScaleShiftBackward& k) {
  const int64_t sums = (k.grad_scale ? 1 : 0) + (k.grad_shift ? 1 : 0);
  return sums * Workspace::aligned<float>(group_count(k.grad_out.rows()) * k.grad_out.dim(-1));
}

SIDETUNE_CPU_KERNEL(ScaleShiftForward)
SIDETUNE_CPU_KERNEL(ScaleShiftBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
