#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/depthwise_conv.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
#include "patch_grid-inl.h"
// clang-format on

#include "../depthwise_conv.h"

namespace sidetune::cpu {

template <class Arguments>
PatchGrid patch_grid(const Arguments& k, const Tensor& x) {
  return {x.dim(0), k.prefix_tokens, k.grid[0], k.grid[1], x.dim(2), k.weight.dim(-1)};
}

}  // namespace sidetune::cpu

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

template <class T>
void forward(const Cpu& cpu, const DepthwiseConvForward& k, Workspace scratch) {
  const T* x = k.x.as<T>();
  T* out = k.out.as<T>();
  convolve(
      cpu, patch_grid(k, k.x), k.weight.as<float>(), scratch, [=](int64_t i, size_t left) HWY_ATTR { return load_upto(x + i, left); },
      [=](int64_t i, size_t left, V sum) HWY_ATTR { store_upto(sum, out + i, left); });
}

template <class T>
void backward(const Cpu& cpu, const DepthwiseConvBackward& k, Workspace scratch) {
  if (!k.grad_x && !k.grad_weight) return;
  const T *x = k.x.as<T>(), *grad_out = k.grad_out.as<T>();
  T* grad_x = k.grad_x.as<T>();
  convolve_backward(
      cpu, patch_grid(k, k.grad_out), k.weight.as<float>(), scratch,  //
      [=](int64_t i, size_t left) HWY_ATTR { return load_upto(x + i, left); },
      [=](int64_t i, size_t left) HWY_ATTR { return load_upto(grad_out + i, left); }, static_cast<bool>(k.grad_x),
      [=](int64_t i, size_t left, V sum) HWY_ATTR { store_upto(sum, grad_x + i, left); }, k.grad_weight.as<float>());
}

void depthwise_conv_forward(const Cpu& cpu, const DepthwiseConvForward& k, Workspace scratch) {
  k.x.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, scratch) : forward<float>(cpu, k, scratch);
}
void depthwise_conv_backward(const Cpu& cpu, const DepthwiseConvBackward& k, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, scratch) : backward<float>(cpu, k, scratch);
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(depthwise_conv_forward);
HWY_EXPORT(depthwise_conv_backward);

void run(Cpu& cpu, const DepthwiseConvForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(depthwise_conv_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const DepthwiseConvBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(depthwise_conv_backward)(cpu, k, scratch); }

int64_t workspace(Cpu&, const DepthwiseConvForward& k) { return patch_grid(k, k.x).forward_workspace(); }
int64_t workspace(Cpu&, const DepthwiseConvBackward& k) {
  return patch_grid(k, k.grad_out).backward_workspace(static_cast<bool>(k.grad_x), static_cast<bool>(k.grad_weight));
}

SIDETUNE_CPU_KERNEL(DepthwiseConvForward)
SIDETUNE_CPU_KERNEL(DepthwiseConvBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
