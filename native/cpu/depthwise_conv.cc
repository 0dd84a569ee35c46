#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/depthwise_conv.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
#include "patch_grid-inl.h"
// clang-format on

#include "../depthwise_conv.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

template <class T>
struct Result {
  T* data;
  HWY_INLINE void operator()(Place place, size_t left, V result) const { store_upto(result, data + place.number, left); }
  HWY_INLINE void prefetch(int64_t number, int64_t count) const { HWY_NAMESPACE::prefetch(data + number, count); }
};

template <class T>
void forward(const Cpu& cpu, const DepthwiseConvForward& k, const PatchGrid& grid, Workspace scratch) {
  convolve(cpu, grid, k.weight.as<float>(), scratch, Numbers<T>{k.x.as<T>()}, Result<T>{k.out.as<T>()});
}

template <class T>
void backward(const Cpu& cpu, const DepthwiseConvBackward& k, const PatchGrid& grid, Workspace scratch) {
  if (!k.grad_x && !k.grad_weight) return;
  convolve_backward(cpu, grid, k.weight.as<float>(), scratch, Numbers<T>{k.x.as<T>()}, Numbers<T>{k.grad_out.as<T>()},
                    static_cast<bool>(k.grad_x), Result<T>{k.grad_x.as<T>()}, k.grad_weight.as<float>());
}

void depthwise_conv_forward(const Cpu& cpu, const DepthwiseConvForward& k, const PatchGrid& grid, Workspace scratch) {
  k.x.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, grid, scratch) : forward<float>(cpu, k, grid, scratch);
}
void depthwise_conv_backward(const Cpu& cpu, const DepthwiseConvBackward& k, const PatchGrid& grid, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, grid, scratch) : backward<float>(cpu, k, grid, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(depthwise_conv_forward);
HWY_EXPORT(depthwise_conv_backward);

template <class Arguments>
PatchGrid patch_grid(const Arguments& k, const Tensor& x) {
  return {x.dim(0), k.prefix_tokens, k.grid[0], k.grid[1], x.dim(2), k.weight.dim(-1)};
}

void run(Cpu& cpu, const DepthwiseConvForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(depthwise_conv_forward)(cpu, k, patch_grid(k, k.x), scratch);
}
void run(Cpu& cpu, const DepthwiseConvBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(depthwise_conv_backward)(cpu, k, patch_grid(k, k.grad_out), scratch);
}

int64_t workspace(Cpu&, const DepthwiseConvForward& k) { return patch_grid(k, k.x).forward_workspace(); }
int64_t workspace(Cpu&, const DepthwiseConvBackward& k) {
  return patch_grid(k, k.grad_out).backward_workspace(static_cast<bool>(k.grad_x), static_cast<bool>(k.grad_weight));
}

SIDETUNE_CPU_KERNEL(DepthwiseConvForward)
SIDETUNE_CPU_KERNEL(DepthwiseConvBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
