#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/low_rank.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "math-inl.h"
// clang-format on

#include <type_traits>

#include "../low_rank.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

// Row routines. Their factors are [r, d], so that vectors run along the row; kRank is r, or 0 for a rank that is known at run time only.
constexpr int64_t rank_of(int rank, int64_t r) { return rank ? rank : r; }

template <class Body>
HWY_INLINE void with_rank(int64_t r, const Body& body) {
  switch (r) {
    case 1: return body(std::integral_constant<int, 1>());
    case 2: return body(std::integral_constant<int, 2>());
    case 3: return body(std::integral_constant<int, 3>());
    case 4: return body(std::integral_constant<int, 4>());
    case 8: return body(std::integral_constant<int, 8>());
    default: return body(std::integral_constant<int, 0>());
  }
}

// products[j] = Σ_i row[i] factors[j, i].
template <int kRank, class T>
HWY_INLINE void row_products(const T* HWY_RESTRICT row, const float* factors, int64_t r, int64_t d, float* products) {
  if (kRank == 0) {  // one rank at a time: the row stays in L1
    for (int64_t j = 0; j < r; j++) row_products<1>(row, factors + j * d, 1, d, products + j);
    return;
  }
  V sums[kRank ? kRank : 1];
  for (V& s : sums) s = hn::Zero(F());
  for_each_vector(d, [&](size_t, auto at, auto) HWY_ATTR {
    const V x = at(row);
    for (int j = 0; j < kRank; j++) sums[j] = hn::MulAdd(x, at(factors + j * d), sums[j]);
  });
  for (int j = 0; j < kRank; j++) products[j] = sum(sums[j]);
}

// Σ_j coefficients[j] factors[j], at one place of the row.
template <int kRank, class At>
HWY_INLINE V combination(const float* coefficients, const float* factors, int64_t r, int64_t d, const At& at) {
  V total = hn::Zero(F());
  for (int64_t j = 0; j < rank_of(kRank, r); j++) total = hn::MulAdd(hn::Set(F(), coefficients[j]), at(factors + j * d), total);
  return total;
}

// sums[j] += coefficients[j] row.
template <int kRank, class T>
HWY_INLINE void add_outer_product(const float* coefficients, const T* HWY_RESTRICT row, int64_t r, int64_t d, float* HWY_RESTRICT sums) {
  for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
    const V x = at(row);
    for (int64_t j = 0; j < rank_of(kRank, r); j++) put(hn::MulAdd(hn::Set(F(), coefficients[j]), x, at(sums + j * d)), sums + j * d);
  });
}

// a [d, r] as [r, d].
void transpose(const float* a, int64_t d, int64_t r, float* transposed) {
  for (int64_t i = 0; i < d; i++) {
    for (int64_t j = 0; j < r; j++) transposed[j * d + i] = a[i * r + j];
  }
}
void add_transposed(const float* transposed, int64_t d, int64_t r, float* a) {
  for (int64_t i = 0; i < d; i++) {
    for (int64_t j = 0; j < r; j++) a[i * r + j] += transposed[j * d + i];
  }
}

// One row of z and h is read and h written; u is r numbers.
template <int kRank, class T>
void accumulate_rows(const LowRankAccumulateForward& k, const float* a, float* u, int64_t begin, int64_t end) {
  const int64_t d = k.z.dim(-1), r = k.c.dim(0);
  const float* c = k.c.as<float>();
  for (int64_t row = begin; row < end; row++) {
    float* h = k.h.as<float>() + row * d;
    row_products<kRank>(k.z.as<T>() + row * d, a, r, d, u + row * r);
    for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
      const V change = combination<kRank>(u + row * r, c, r, d, at);
      put(k.initialize ? change : hn::Add(at(h), change), h);
    });
  }
}

template <int kRank>
void undo_rows(const LowRankUndo& k, int64_t begin, int64_t end) {
  const int64_t d = k.h.dim(-1), r = k.c.dim(0);
  for (int64_t row = begin; row < end; row++) {
    float* h = k.h.as<float>() + row * d;
    const float* u = k.u.as<float>() + row * r;
    for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
      put(hn::Sub(at(h), combination<kRank>(u, k.c.as<float>(), r, d, at)), h);
    });
  }
}

// Partial sums of a group of rows for gradA, as [r, d], and gradC; null where unwanted.
struct GroupSums {
  float *a, *c;
};

template <int kRank, class T>
void gradient_rows(const LowRankAccumulateBackward& k, const float* a, float* gu, GroupSums sums, int64_t begin, int64_t end) {
  const int64_t d = k.z.dim(-1), r = k.c.dim(0);
  if (sums.a) memset(sums.a, 0, r * d * sizeof(float));
  if (sums.c) memset(sums.c, 0, r * d * sizeof(float));
  for (int64_t row = begin; row < end; row++) {
    const float* g = k.grad_h.as<float>() + row * d;
    const T* z = k.z.as<T>() + row * d;
    if (k.grad_z || sums.a) row_products<kRank>(g, k.c.as<float>(), r, d, gu + row * r);
    if (sums.c) add_outer_product<kRank>(k.u.as<float>() + row * r, g, r, d, sums.c);
    if (sums.a) add_outer_product<kRank>(gu + row * r, z, r, d, sums.a);
    if (k.grad_z) {
      const T* residual = k.residual ? k.residual.as<T>() + row * d : nullptr;
      T* grad_z = k.grad_z.as<T>() + row * d;
      for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
        const V gradient = combination<kRank>(gu + row * r, a, r, d, at);
        put(residual ? hn::Add(at(residual), gradient) : gradient, grad_z);
      });
    }
  }
}

template <class T>
void accumulate(const Cpu& cpu, const LowRankAccumulateForward& k, Workspace scratch) {
  const int64_t d = k.z.dim(-1), rows = k.z.rows(), r = k.c.dim(0);
  float* a = scratch.take<float>(r * d);
  float* u = k.u ? k.u.as<float>() : scratch.take<float>(rows * r);
  transpose(k.a.as<float>(), d, r, a);
  with_rank(r, [&](auto rank) {
    parallel_ranges(cpu, rows, 8, [&](int64_t begin, int64_t end) { accumulate_rows<decltype(rank)::value, T>(k, a, u, begin, end); });
  });
}

template <class T>
void backward(const Cpu& cpu, const LowRankAccumulateBackward& k, Workspace scratch) {
  const int64_t d = k.z.dim(-1), rows = k.z.rows(), r = k.c.dim(0), groups = group_count(rows), per_group = group_rows(rows);
  float* a = scratch.take<float>(r * d);
  float* gu = scratch.take<float>(rows * r);
  float* a_sums = k.grad_a ? scratch.take<float>(groups * r * d) : nullptr;
  float* c_sums = k.grad_c ? scratch.take<float>(groups * r * d) : nullptr;
  transpose(k.a.as<float>(), d, r, a);
  with_rank(r, [&](auto rank) {
    parallel_items(cpu, groups, [&](int64_t group) {
      const GroupSums sums{a_sums ? a_sums + group * r * d : nullptr, c_sums ? c_sums + group * r * d : nullptr};
      gradient_rows<decltype(rank)::value, T>(k, a, gu, sums, group * per_group, std::min(rows, (group + 1) * per_group));
    });
  });
  float *grad_a = k.grad_a.as<float>(), *grad_c = k.grad_c.as<float>();
  for (int64_t group = 0; group < groups; group++) {
    if (a_sums) add_transposed(a_sums + group * r * d, d, r, grad_a);
    if (c_sums) for_each_vector(r * d, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(grad_c), at(c_sums + group * r * d)), grad_c); });
  }
}

void low_rank_accumulate_forward(const Cpu& cpu, const LowRankAccumulateForward& k, Workspace scratch) {
  k.z.dtype == DType::bf16 ? accumulate<bf16_t>(cpu, k, scratch) : accumulate<float>(cpu, k, scratch);
}
void low_rank_undo(const Cpu& cpu, const LowRankUndo& k) {
  with_rank(k.c.dim(0), [&](auto rank) {
    parallel_ranges(cpu, k.h.rows(), 8, [&](int64_t begin, int64_t end) { undo_rows<decltype(rank)::value>(k, begin, end); });
  });
}
void low_rank_accumulate_backward(const Cpu& cpu, const LowRankAccumulateBackward& k, Workspace scratch) {
  k.z.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, scratch) : backward<float>(cpu, k, scratch);
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(low_rank_accumulate_forward);
HWY_EXPORT(low_rank_undo);
HWY_EXPORT(low_rank_accumulate_backward);

void run(Cpu& cpu, const LowRankAccumulateForward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(low_rank_accumulate_forward)(cpu, k, scratch); }
void run(Cpu& cpu, const LowRankUndo& k, Workspace) { HWY_DYNAMIC_DISPATCH(low_rank_undo)(cpu, k); }
void run(Cpu& cpu, const LowRankAccumulateBackward& k, Workspace scratch) { HWY_DYNAMIC_DISPATCH(low_rank_accumulate_backward)(cpu, k, scratch); }

int64_t workspace(Cpu&, const LowRankAccumulateForward& k) {
  const int64_t r = k.c.dim(0);
  return Workspace::aligned<float>(r * k.z.dim(-1)) + (k.u ? 0 : Workspace::aligned<float>(k.z.rows() * r));
}

int64_t workspace(Cpu&, const LowRankAccumulateBackward& k) {
  const int64_t rows = k.z.rows(), r = k.c.dim(0), sums = (k.grad_a ? 1 : 0) + (k.grad_c ? 1 : 0);
  return Workspace::aligned<float>(r * k.z.dim(-1)) + Workspace::aligned<float>(rows * r) +
         sums * Workspace::aligned<float>(group_count(rows) * r * k.z.dim(-1));
}

SIDETUNE_CPU_KERNEL(LowRankAccumulateForward)
SIDETUNE_CPU_KERNEL(LowRankUndo)
SIDETUNE_CPU_KERNEL(LowRankAccumulateBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
