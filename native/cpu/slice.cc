#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/slice.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include "../slice.h"
#include "parallel.h"

#ifndef SIDETUNE_CPU_SLICE
#define SIDETUNE_CPU_SLICE
namespace sidetune::cpu {

// Rows that are worth a thread.
inline int64_t rows_a_thread(int64_t width) { return std::max<int64_t>(1, 4096 / width); }

}  // namespace sidetune::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

void slice_backward(const Cpu& cpu, const SliceBackward& k) {
  const int64_t C = k.grad_x.dim(1), width = k.grad_out.dim(1);
  float* window = k.grad_x.as<float>() + k.rows[0] * C + k.columns[0];
  parallel_ranges(cpu, k.grad_out.dim(0), rows_a_thread(width), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; row++) {
      const float* gradient = k.grad_out.as<float>() + row * width;
      float* sum = window + row * C;
      for_each_vector(width, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(sum), at(gradient)), sum); });
    }
  });
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(slice_backward);

void run(Cpu& cpu, const SliceForward& k, Workspace) {
  const int64_t C = k.x.dim(1), width = k.out.dim(1);
  const float* window = k.x.as<float>() + k.rows[0] * C + k.columns[0];
  parallel_ranges(cpu, k.out.dim(0), rows_a_thread(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++)
      std::memcpy(k.out.as<float>() + row * width, window + row * C, width * sizeof(float));
  });
}
void run(Cpu& cpu, const SliceBackward& k, Workspace) { HWY_DYNAMIC_DISPATCH(slice_backward)(cpu, k); }

SIDETUNE_CPU_KERNEL(SliceForward)
SIDETUNE_CPU_KERNEL(SliceBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
