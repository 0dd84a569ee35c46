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
namespace {

// Rows are worked off four at a time: they stay in L1 between the steps, and each load of a, c or a partial sum serves four rows.
// Row by row the order of operations is the same for a tile of four and of one, so results do not depend on where a tile begins.
// Factors are [r, d]: vectors run along the row. Any rank takes this one path.
constexpr int kTile = 4;

// Calls body(rows of the tile as a constant, first row) over [begin, end).
template <class Body>
HWY_INLINE void for_each_tile(int64_t begin, int64_t end, const Body& body) {
  int64_t row = begin;
  for (; row + kTile <= end; row += kTile) body(std::integral_constant<int, kTile>(), row);
  for (; row < end; row++) body(std::integral_constant<int, 1>(), row);
}

// products[row, j] = Σ_i rows[row, i] factors[j, i] for kRanks of the r ranks.
template <int kRows, int kRanks, class T>
HWY_INLINE void products_of_ranks(const T* HWY_RESTRICT rows, const float* HWY_RESTRICT factors, int64_t r, int64_t d,
                                  float* products) {
  V sums[kRows][kRanks];
  for (auto& row : sums) {
    for (V& s : row) s = hn::Zero(F());
  }
  for_each_vector(d, [&](size_t, auto at, auto) HWY_ATTR {
    V factor[kRanks];
    for (int j = 0; j < kRanks; j++) factor[j] = at(factors + j * d);
    for (int i = 0; i < kRows; i++) {
      const V x = at(rows + i * d);
      for (int j = 0; j < kRanks; j++) sums[i][j] = hn::MulAdd(x, factor[j], sums[i][j]);
    }
  });
  for (int i = 0; i < kRows; i++) {
    for (int j = 0; j < kRanks; j++) products[i * r + j] = sum(sums[i][j]);
  }
}

template <int kRows, class T>
HWY_INLINE void row_products(const T* rows, const float* factors, int64_t r, int64_t d, float* products) {
  int64_t j = 0;
  for (; j + 2 <= r; j += 2) products_of_ranks<kRows, 2>(rows, factors + j * d, r, d, products + j);
  if (j < r) products_of_ranks<kRows, 1>(rows, factors + j * d, r, d, products + j);
}

// Calls finish(row, Σ_j coefficients[row, j] factors[j], at, put) at every place of the rows.
template <int kRows, class Finish>
HWY_INLINE void combine_factors(const float* HWY_RESTRICT coefficients, const float* HWY_RESTRICT factors, int64_t r, int64_t d,
                                const Finish& finish) {
  for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
    V totals[kRows];
    for (V& t : totals) t = hn::Zero(F());
    for (int64_t j = 0; j < r; j++) {
      const V factor = at(factors + j * d);
      for (int i = 0; i < kRows; i++) totals[i] = hn::MulAdd(hn::Set(F(), coefficients[i * r + j]), factor, totals[i]);
    }
    for (int i = 0; i < kRows; i++) finish(i, totals[i], at, put);
  });
}

// sums[j] += Σ_row coefficients[row, j] rows[row].
template <int kRows, class T>
HWY_INLINE void add_outer_products(const float* HWY_RESTRICT coefficients, const T* HWY_RESTRICT rows, int64_t r, int64_t d,
                                   float* HWY_RESTRICT sums) {
  for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR {
    V x[kRows];
    for (int i = 0; i < kRows; i++) x[i] = at(rows + i * d);
    for (int64_t j = 0; j < r; j++) {
      V total = at(sums + j * d);
      for (int i = 0; i < kRows; i++) total = hn::MulAdd(hn::Set(F(), coefficients[i * r + j]), x[i], total);
      put(total, sums + j * d);
    }
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

// Adds the groups' partial sums up in order, in the first group's place.
const float* sum_of_groups(float* sums, int64_t groups, int64_t count) {
  for (int64_t group = 1; group < groups; group++) add_row(sums + group * count, count, sums);
  return sums;
}

template <class T>
void accumulate_rows(const LowRankAccumulateForward& k, const float* a, float* u, int64_t begin, int64_t end) {
  const int64_t d = k.z.dim(-1), r = k.c.dim(0);
  for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
    constexpr int kRows = decltype(tile)::value;
    float* h = k.h.as<float>() + row * d;
    row_products<kRows>(k.z.as<T>() + row * d, a, r, d, u + row * r);
    combine_factors<kRows>(u + row * r, k.c.as<float>(), r, d, [&](int i, V change, auto at, auto put) HWY_ATTR {
      put(k.initialize ? change : hn::Add(at(h + i * d), change), h + i * d);
    });
  });
}

void undo_rows(const LowRankUndo& k, int64_t begin, int64_t end) {
  const int64_t d = k.h.dim(-1), r = k.c.dim(0);
  for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
    float* h = k.h.as<float>() + row * d;
    combine_factors<decltype(tile)::value>(k.u.as<float>() + row * r, k.c.as<float>(), r, d,
                                           [&](int i, V change, auto at, auto put)
                                               HWY_ATTR { put(hn::Sub(at(h + i * d), change), h + i * d); });
  });
}

// Partial sums of a group of rows for gradA, as [r, d], and gradC; null where unwanted.
struct GroupSums {
  float *a, *c;
};

template <class T>
void gradient_rows(const LowRankAccumulateBackward& k, const float* a, float* gu, GroupSums sums, int64_t begin, int64_t end) {
  const int64_t d = k.z.dim(-1), r = k.c.dim(0);
  if (sums.a) memset(sums.a, 0, r * d * sizeof(float));
  if (sums.c) memset(sums.c, 0, r * d * sizeof(float));
  for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
    constexpr int kRows = decltype(tile)::value;
    const float* g = k.grad_h.as<float>() + row * d;
    if (k.grad_z || sums.a) row_products<kRows>(g, k.c.as<float>(), r, d, gu + row * r);
    if (sums.c) add_outer_products<kRows>(k.u.as<float>() + row * r, g, r, d, sums.c);
    if (sums.a) add_outer_products<kRows>(gu + row * r, k.z.as<T>() + row * d, r, d, sums.a);
    if (k.grad_z) {
      const T* residual = k.residual ? k.residual.as<T>() + row * d : nullptr;
      T* grad_z = k.grad_z.as<T>() + row * d;
      combine_factors<kRows>(gu + row * r, a, r, d, [&](int i, V gradient, auto at, auto put) HWY_ATTR {
        put(residual ? hn::Add(at(residual + i * d), gradient) : gradient, grad_z + i * d);
      });
    }
  });
}

template <class T>
void accumulate(const Cpu& cpu, const LowRankAccumulateForward& k, Workspace scratch) {
  const int64_t d = k.z.dim(-1), rows = k.z.rows(), r = k.c.dim(0);
  float* a = scratch.take<float>(r * d);
  float* u = k.u ? k.u.as<float>() : scratch.take<float>(rows * r);
  transpose(k.a.as<float>(), d, r, a);
  parallel_ranges(cpu, rows, 8, [&](int64_t begin, int64_t end) { accumulate_rows<T>(k, a, u, begin, end); });
}

template <class T>
void backward(const Cpu& cpu, const LowRankAccumulateBackward& k, Workspace scratch) {
  const int64_t d = k.z.dim(-1), rows = k.z.rows(), r = k.c.dim(0), groups = group_count(rows), per_group = group_rows(rows);
  if (rows == 0) return;
  float* a = scratch.take<float>(r * d);
  float* gu = scratch.take<float>(rows * r);
  float* a_sums = k.grad_a ? scratch.take<float>(groups * r * d) : nullptr;
  float* c_sums = k.grad_c ? scratch.take<float>(groups * r * d) : nullptr;
  transpose(k.a.as<float>(), d, r, a);
  parallel_items(cpu, groups, [&](int64_t group) {
    const GroupSums sums{a_sums ? a_sums + group * r * d : nullptr, c_sums ? c_sums + group * r * d : nullptr};
    gradient_rows<T>(k, a, gu, sums, group * per_group, std::min(rows, (group + 1) * per_group));
  });
  if (k.grad_a) add_transposed(sum_of_groups(a_sums, groups, r * d), d, r, k.grad_a.as<float>());
  if (k.grad_c) add_row(sum_of_groups(c_sums, groups, r * d), r * d, k.grad_c.as<float>());
}

void low_rank_accumulate_forward(const Cpu& cpu, const LowRankAccumulateForward& k, Workspace scratch) {
  k.z.dtype == DType::bf16 ? accumulate<bf16_t>(cpu, k, scratch) : accumulate<float>(cpu, k, scratch);
}
void low_rank_undo(const Cpu& cpu, const LowRankUndo& k) {
  parallel_ranges(cpu, k.h.rows(), 8, [&](int64_t begin, int64_t end) { undo_rows(k, begin, end); });
}
void low_rank_accumulate_backward(const Cpu& cpu, const LowRankAccumulateBackward& k, Workspace scratch) {
  k.z.dtype == DType::bf16 ? backward<bf16_t>(cpu, k, scratch) : backward<float>(cpu, k, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(low_rank_accumulate_forward);
HWY_EXPORT(low_rank_undo);
HWY_EXPORT(low_rank_accumulate_backward);

void run(Cpu& cpu, const LowRankAccumulateForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(low_rank_accumulate_forward)(cpu, k, scratch);
}
void run(Cpu& cpu, const LowRankUndo& k, Workspace) { HWY_DYNAMIC_DISPATCH(low_rank_undo)(cpu, k); }
void run(Cpu& cpu, const LowRankAccumulateBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(low_rank_accumulate_backward)(cpu, k, scratch);
}

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
