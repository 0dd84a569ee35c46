#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/side_inject.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "low_rank-inl.h"
#include "math-inl.h"
#include "patch_grid-inl.h"
// clang-format on

#include "../side_inject.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 4096;  // numbers that are worth a thread

// DTL: element by element.
template <class T>
void inject(const Cpu& cpu, const SideInjectForward& k) {
  const V beta = hn::Set(F(), k.beta);
  parallel_ranges(cpu, k.h.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const float* h = k.h.as<float>() + begin;
    const T* z = k.z.as<T>() + begin;
    T* out = k.out.as<T>() + begin;
    for_each_vector(end - begin, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(z), swish(at(h), beta)), out); });
  });
}

template <class T>
void inject_backward(const Cpu& cpu, const SideInjectBackward& k) {
  const V beta = hn::Set(F(), k.beta);
  parallel_ranges(cpu, k.h.size(), kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    const T* grad_out = k.grad_out.as<T>() + begin;
    const float *h = k.h.as<float>() + begin, *residual = k.residual ? k.residual.as<float>() + begin : nullptr;
    float* grad_h = k.grad_h.as<float>() + begin;
    for_each_vector(end - begin, [&](size_t, auto at, auto put) HWY_ATTR {
      const V slope = swish_slope(at(h), beta);
      put(residual ? hn::MulAdd(slope, at(grad_out), at(residual)) : hn::Mul(slope, at(grad_out)), grad_h);
    });
  });
}

// A low-rank h, to be formed where it is needed: the blocks' u joined to rows of `ranks` numbers, and their c one below the
// other.
struct LowRank {
  static constexpr int kAtOnce = PatchGrid::kColumns;  // each load of a factor serves so many tokens
  const float *u, *c;
  int64_t ranks, d;

  template <int kCount>
  HWY_INLINE void read(Place first, size_t left, V (&totals)[kCount]) const {
    HWY_UNROLL(8)
    for (int p = 0; p < kCount; p++) totals[p] = hn::Zero(F());
    const float *factors = c + first.channel, *coefficients = u + first.token * ranks;
    for (int64_t j = 0; j < ranks; j++, factors += d) {
      const V factor = load_upto(factors, left);
      HWY_UNROLL(8)
      for (int p = 0; p < kCount; p++) totals[p] = hn::MulAdd(hn::Set(F(), coefficients[p * ranks + j]), factor, totals[p]);
    }
  }
  HWY_INLINE void prefetch(int64_t, int64_t) const {}
};

template <class Arguments>
LowRank join(const Cpu& cpu, const Arguments& k, int64_t rows, Workspace& scratch) {
  const Blocks blocks(k);
  float* c = scratch.take<float>(blocks.ranks() * blocks.d);
  float* u = scratch.take<float>(rows * blocks.ranks());
  blocks.stack(k.c, c);
  parallel_ranges(cpu, rows, 64, [&](int64_t begin, int64_t end) { blocks.join(k.u, begin, end, u); });
  return {u, c, blocks.ranks(), blocks.d};
}

// DTL with it, in tiles of rows: calls at_place(number, h, at, put).
template <class Body>
void for_each_place(const Cpu& cpu, const LowRank& h, int64_t rows, const Body& at_place) {
  parallel_ranges(cpu, rows, 8, [&](int64_t begin, int64_t end) HWY_ATTR {
    for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
      combine_factors<decltype(tile)::value>(h.u + row * h.ranks, h.c, h.ranks, h.d,
                                             [&](int i, V total, auto at, auto put)
                                                 HWY_ATTR { at_place((row + i) * h.d, total, at, put); });
    });
  });
}

template <class T>
void inject(const Cpu& cpu, const SideInjectLowRankForward& k, const LowRank& h) {
  const V beta = hn::Set(F(), k.beta);
  for_each_place(cpu, h, k.z.rows(), [&](int64_t number, V state, auto at, auto put) HWY_ATTR {
    put(hn::Add(at(k.z.as<T>() + number), swish(state, beta)), k.out.as<T>() + number);
  });
}

template <class T>
void inject_backward(const Cpu& cpu, const SideInjectLowRankBackward& k, const LowRank& h) {
  const V beta = hn::Set(F(), k.beta);
  for_each_place(cpu, h, k.grad_out.rows(), [&](int64_t number, V state, auto at, auto put) HWY_ATTR {
    put(hn::Mul(swish_slope(state, beta), at(k.grad_out.as<T>() + number)), k.grad_h.as<float>() + number);
  });
}

// DTL+: θ(h) is the convolution's source, the residual add its sink. H is a source of h.
template <class H>
struct Theta {
  static constexpr int kAtOnce = H::kAtOnce;
  H h;
  float beta;
  template <int kCount>
  HWY_INLINE void read(Place first, size_t left, V (&values)[kCount]) const {
    h.template read<kCount>(first, left, values);
    HWY_UNROLL(8)
    for (int p = 0; p < kCount; p++) values[p] = swish(values[p], hn::Set(F(), beta));
  }
  HWY_INLINE void prefetch(int64_t number, int64_t count) const { h.prefetch(number, count); }
};

template <class T>
struct AddToTokens {
  const T* z;
  T* out;
  HWY_INLINE void operator()(Place place, size_t left, V result) const {
    store_upto(hn::Add(load_upto(z + place.number, left), result), out + place.number, left);
  }
  HWY_INLINE void prefetch(int64_t number, int64_t count) const {
    HWY_NAMESPACE::prefetch(z + number, count);
    HWY_NAMESPACE::prefetch(out + number, count);
  }
};

template <class H>
struct ThetaGradient {
  H h;
  const float* residual;
  float beta;
  float* grad_h;
  HWY_INLINE void operator()(Place place, size_t left, V gradient) const {
    V state[1];
    h.template read<1>(place, left, state);
    const V slope = swish_slope(state[0], hn::Set(F(), beta));
    store_upto(residual ? hn::MulAdd(slope, gradient, load_upto(residual + place.number, left)) : hn::Mul(slope, gradient),
               grad_h + place.number, left);
  }
  HWY_INLINE void prefetch(int64_t number, int64_t count) const {
    h.prefetch(number, count);
    if (residual) HWY_NAMESPACE::prefetch(residual + number, count);
    HWY_NAMESPACE::prefetch(grad_h + number, count);
  }
};

template <class T, class H, class Arguments>
void convolved(const Cpu& cpu, const Arguments& k, const H& h, const PatchGrid& grid, Workspace scratch) {
  convolve(cpu, grid, k.weight.template as<float>(), scratch, Theta<H>{h, k.beta},
           AddToTokens<T>{k.z.template as<T>(), k.out.template as<T>()});
}

template <class T, class H, class Arguments>
void convolved_backward(const Cpu& cpu, const Arguments& k, const H& h, const float* residual, const PatchGrid& grid,
                        Workspace scratch) {
  convolve_backward(cpu, grid, k.weight.template as<float>(), scratch, Theta<H>{h, k.beta},
                    Numbers<T>{k.grad_out.template as<T>()}, static_cast<bool>(k.grad_h),
                    ThetaGradient<H>{h, residual, k.beta, k.grad_h.template as<float>()}, k.grad_weight.template as<float>());
}

template <class T>
void forward(const Cpu& cpu, const SideInjectForward& k, const PatchGrid& grid, Workspace scratch) {
  k.weight ? convolved<T>(cpu, k, Numbers<float>{k.h.as<float>()}, grid, scratch) : inject<T>(cpu, k);
}
template <class T>
void forward(const Cpu& cpu, const SideInjectLowRankForward& k, const PatchGrid& grid, Workspace scratch) {
  const LowRank h = join(cpu, k, k.z.rows(), scratch);
  k.weight ? convolved<T>(cpu, k, h, grid, scratch) : inject<T>(cpu, k, h);
}
template <class T>
void backward(const Cpu& cpu, const SideInjectBackward& k, const PatchGrid& grid, Workspace scratch) {
  if (!k.grad_h && !k.grad_weight) return;
  if (!k.weight) return inject_backward<T>(cpu, k);
  convolved_backward<T>(cpu, k, Numbers<float>{k.h.as<float>()}, k.residual.as<float>(), grid, scratch);
}
template <class T>
void backward(const Cpu& cpu, const SideInjectLowRankBackward& k, const PatchGrid& grid, Workspace scratch) {
  if (!k.grad_h && !k.grad_weight) return;
  const LowRank h = join(cpu, k, k.grad_out.rows(), scratch);
  k.weight ? convolved_backward<T>(cpu, k, h, nullptr, grid, scratch) : inject_backward<T>(cpu, k, h);
}

void side_inject_forward(const Cpu& cpu, const SideInjectForward& k, const PatchGrid& grid, Workspace scratch) {
  k.z.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, grid, scratch) : forward<float>(cpu, k, grid, scratch);
}
void side_inject_backward(const Cpu& cpu, const SideInjectBackward& k, const PatchGrid& grid, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, grid, scratch) : backward<float>(cpu, k, grid, scratch);
}
void side_inject_low_rank_forward(const Cpu& cpu, const SideInjectLowRankForward& k, const PatchGrid& grid, Workspace scratch) {
  k.z.dtype == DType::bf16 ? forward<bf16_t>(cpu, k, grid, scratch) : forward<float>(cpu, k, grid, scratch);
}
void side_inject_low_rank_backward(const Cpu& cpu, const SideInjectLowRankBackward& k, const PatchGrid& grid, Workspace scratch) {
  k.grad_out.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, grid, scratch) : backward<float>(cpu, k, grid, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(side_inject_forward);
HWY_EXPORT(side_inject_backward);
HWY_EXPORT(side_inject_low_rank_forward);
HWY_EXPORT(side_inject_low_rank_backward);

// Without a kernel, nothing is read from it.
template <class Arguments>
PatchGrid patch_grid(const Arguments& k, const Tensor& x) {
  if (!k.weight) return {};
  const int64_t tokens = k.prefix_tokens + k.grid[0] * k.grid[1];
  return {x.rows() / tokens, k.prefix_tokens, k.grid[0], k.grid[1], x.dim(-1), k.weight.dim(-1)};
}

void run(Cpu& cpu, const SideInjectForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(side_inject_forward)(cpu, k, patch_grid(k, k.z), scratch);
}
void run(Cpu& cpu, const SideInjectBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(side_inject_backward)(cpu, k, patch_grid(k, k.grad_out), scratch);
}
void run(Cpu& cpu, const SideInjectLowRankForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(side_inject_low_rank_forward)(cpu, k, patch_grid(k, k.z), scratch);
}
void run(Cpu& cpu, const SideInjectLowRankBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(side_inject_low_rank_backward)(cpu, k, patch_grid(k, k.grad_out), scratch);
}

template <class Arguments>
int64_t forward_workspace(const Arguments& k) {
  return k.weight ? patch_grid(k, k.z).forward_workspace() : 0;
}
template <class Arguments>
int64_t backward_workspace(const Arguments& k) {
  if (!k.weight) return 0;
  return patch_grid(k, k.grad_out).backward_workspace(static_cast<bool>(k.grad_h), static_cast<bool>(k.grad_weight));
}
int64_t joined_workspace(const TensorList& c, int64_t rows) {
  const int64_t d = c[0].dim(1), ranks = static_cast<int64_t>(c.size()) * c[0].dim(0);
  return Workspace::aligned<float>(ranks * d) + Workspace::aligned<float>(rows * ranks);
}
int64_t workspace(Cpu&, const SideInjectForward& k) { return forward_workspace(k); }
int64_t workspace(Cpu&, const SideInjectBackward& k) { return backward_workspace(k); }
int64_t workspace(Cpu&, const SideInjectLowRankForward& k) { return forward_workspace(k) + joined_workspace(k.c, k.z.rows()); }
int64_t workspace(Cpu&, const SideInjectLowRankBackward& k) {
  return backward_workspace(k) + joined_workspace(k.c, k.grad_out.rows());
}

SIDETUNE_CPU_KERNEL(SideInjectForward)
SIDETUNE_CPU_KERNEL(SideInjectBackward)
SIDETUNE_CPU_KERNEL(SideInjectLowRankForward)
SIDETUNE_CPU_KERNEL(SideInjectLowRankBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
