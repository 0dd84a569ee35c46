#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/pool.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "gelu_slope-inl.h"
#include "math-inl.h"
// clang-format on

#include "../pool.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

// A task owns some columns of one image, so that a single image keeps all threads busy too.
constexpr int64_t kColumns = 256;

template <class Body>
void for_each_block(const Cpu& cpu, int64_t images, int64_t d, const Body& body) {
  const int64_t blocks = (d + kColumns - 1) / kColumns;
  parallel_ranges(cpu, images * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t column = task % blocks * kColumns;
      body(task / blocks, column, std::min(kColumns, d - column));
    }
  });
}

// The sum runs in a row of its own, which stays in L1 while the tokens stream by.
template <class T, class Out>
void forward(const Cpu& cpu, const PoolForward& k) {
  const int64_t N = k.x.dim(1), d = k.x.dim(2);
  const int64_t begin = k.mode == PoolMode::mean ? k.prefix_tokens : 0, end = k.mode == PoolMode::mean ? N : 1;
  for_each_block(cpu, k.x.dim(0), d, [&](int64_t image, int64_t column, int64_t columns) HWY_ATTR {
    const T* x = k.x.as<T>() + image * N * d + column;
    Out* out = k.out.as<Out>() + image * d + column;
    float sum[kColumns];
    for_each_vector(columns, [&](size_t, auto at, auto put) HWY_ATTR { put(at(x + begin * d), sum); });
    for (int64_t n = begin + 1; n < end; n++) {
      for_each_vector(columns, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(sum), at(x + n * d)), sum); });
    }
    const V count = hn::Set(F(), static_cast<float>(end - begin));
    for_each_vector(columns, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Div(at(sum), count), out); });
  });
}

template <class T, class Out>
void backward(const Cpu& cpu, const PoolBackward& k) {
  const int64_t N = k.grad_x.dim(1), d = k.grad_x.dim(2);
  const int64_t begin = k.mode == PoolMode::mean ? k.prefix_tokens : 0, end = k.mode == PoolMode::mean ? N : 1;
  for_each_block(cpu, k.grad_x.dim(0), d, [&](int64_t image, int64_t column, int64_t columns) HWY_ATTR {
    const Out* grad_out = k.grad_out.as<Out>() + image * d + column;
    T* grad_x = k.grad_x.as<T>() + image * N * d + column;
    const auto* slope = k.slope ? k.slope.as<const SlopeOf<T>>() + image * N * d + column : nullptr;
    const V share = hn::Set(F(), 1.0f / static_cast<float>(end - begin)), zero = hn::Zero(F());
    for (int64_t n = 0; n < N; n++) {
      const bool read = n >= begin && n < end;
      for_each_vector(columns, [&](size_t, auto at, auto put) HWY_ATTR {
        V gradient = read ? hn::Mul(at(grad_out), share) : zero;
        if (slope) gradient = hn::Mul(gradient, from_slope(at(slope + n * d), slope));
        put(gradient, grad_x + n * d);
      });
    }
  });
}

template <class Out>
void forward_to(const Cpu& cpu, const PoolForward& k) {
  k.x.dtype == DType::bf16 ? forward<bf16_t, Out>(cpu, k) : forward<float, Out>(cpu, k);
}
template <class Out>
void backward_from(const Cpu& cpu, const PoolBackward& k) {
  k.grad_x.dtype == DType::bf16 ? backward<bf16_t, Out>(cpu, k) : backward<float, Out>(cpu, k);
}

void pool_forward(const Cpu& cpu, const PoolForward& k) {
  if (k.out) k.out.dtype == DType::bf16 ? forward_to<bf16_t>(cpu, k) : forward_to<float>(cpu, k);
}
void pool_backward(const Cpu& cpu, const PoolBackward& k) {
  if (k.grad_x) k.grad_out.dtype == DType::bf16 ? backward_from<bf16_t>(cpu, k) : backward_from<float>(cpu, k);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(pool_forward);
HWY_EXPORT(pool_backward);

void run(Cpu& cpu, const PoolForward& k, Workspace) { HWY_DYNAMIC_DISPATCH(pool_forward)(cpu, k); }
void run(Cpu& cpu, const PoolBackward& k, Workspace) { HWY_DYNAMIC_DISPATCH(pool_backward)(cpu, k); }

SIDETUNE_CPU_KERNEL(PoolForward)
SIDETUNE_CPU_KERNEL(PoolBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
