#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "native/cpu/low_rank.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "low_rank-inl.h"
#include "math-inl.h"
// clang-format on

#include "../low_rank.h"
#include "parallel.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {
namespace {

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

// What u = z a gives back to z and a, from gu, the gradient of u. gradZ is null where it is unwanted; a is there as [r, d].
template <class T>
struct ProjectionGradient {
  const T *z, *residual;
  const float* a;
  T* grad_z;
  int64_t r, d;

  template <class Arguments>
  ProjectionGradient(const Arguments& k, const float* a)
      : z(k.z.template as<T>()),
        residual(k.residual.template as<T>()),
        a(a),
        grad_z(k.grad_z.template as<T>()),
        r(k.a.dim(1)),
        d(k.a.dim(0)) {}

  // Writes gradZ of a tile and adds its part of gradA to `a_sums`, as [r, d], if that is not null.
  template <int kRows>
  HWY_INLINE void add_rows(int64_t row, const float* gu, float* a_sums) const {
    if (a_sums) add_outer_products<kRows>(gu, z + row * d, r, d, a_sums);
    if (!grad_z) return;
    const T* before = residual ? residual + row * d : nullptr;
    T* after = grad_z + row * d;
    combine_factors<kRows>(gu, a, r, d, [&](int i, V gradient, auto at, auto put) HWY_ATTR {
      put(before ? hn::Add(at(before + i * d), gradient) : gradient, after + i * d);
    });
  }
};

// Partial sums of each group of rows, from zero on; nothing where they are unwanted.
struct GroupSums {
  float* data;
  int64_t size;

  GroupSums(bool wanted, int64_t groups, int64_t size, Workspace& scratch)
      : data(wanted ? scratch.take<float>(groups * size) : nullptr), size(size) {}
  float* start(int64_t group) const {
    if (!data) return nullptr;
    memset(data + group * size, 0, size * sizeof(float));
    return data + group * size;
  }
  // All groups' sums, added up in order in the first one's place.
  const float* total(int64_t groups) const {
    for (int64_t group = 1; group < groups; group++) add_row(data + group * size, size, data);
    return data;
  }
};

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
  const GroupSums a_sums(static_cast<bool>(k.grad_a), groups, r * d, scratch),
      c_sums(static_cast<bool>(k.grad_c), groups, r * d, scratch);
  transpose(k.a.as<float>(), d, r, a);
  const ProjectionGradient<T> projection(k, a);
  parallel_items(cpu, groups, [&](int64_t group) {
    float *a_sum = a_sums.start(group), *c_sum = c_sums.start(group);
    for_each_tile(group * per_group, std::min(rows, (group + 1) * per_group), [&](auto tile, int64_t row) HWY_ATTR {
      constexpr int kRows = decltype(tile)::value;
      const float* g = k.grad_h.as<float>() + row * d;
      if (k.grad_z || a_sum) row_products<kRows>(g, k.c.as<float>(), r, d, gu + row * r);
      if (c_sum) add_outer_products<kRows>(k.u.as<float>() + row * r, g, r, d, c_sum);
      projection.template add_rows<kRows>(row, gu + row * r, a_sum);
    });
  });
  if (k.grad_a) add_transposed(a_sums.total(groups), d, r, k.grad_a.as<float>());
  if (k.grad_c) add_row(c_sums.total(groups), r * d, k.grad_c.as<float>());
}

template <class T>
void project(const Cpu& cpu, const LowRankProjectForward& k, Workspace scratch) {
  const int64_t d = k.a.dim(0), r = k.a.dim(1);
  float* a = scratch.take<float>(r * d);
  transpose(k.a.as<float>(), d, r, a);
  parallel_ranges(cpu, k.z.rows(), 8, [&](int64_t begin, int64_t end) {
    for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
      row_products<decltype(tile)::value>(k.z.as<T>() + row * d, a, r, d, k.u.as<float>() + row * r);
    });
  });
}

template <class T>
void project_backward(const Cpu& cpu, const LowRankProjectBackward& k, Workspace scratch) {
  const int64_t d = k.a.dim(0), r = k.a.dim(1), rows = k.z.rows(), groups = group_count(rows), per_group = group_rows(rows);
  if (rows == 0) return;
  float* a = scratch.take<float>(r * d);
  const GroupSums a_sums(static_cast<bool>(k.grad_a), groups, r * d, scratch);
  transpose(k.a.as<float>(), d, r, a);
  const ProjectionGradient<T> projection(k, a);
  parallel_items(cpu, groups, [&](int64_t group) {
    float* a_sum = a_sums.start(group);
    for_each_tile(group * per_group, std::min(rows, (group + 1) * per_group), [&](auto tile, int64_t row) HWY_ATTR {
      projection.template add_rows<decltype(tile)::value>(row, k.grad_u.as<float>() + row * r, a_sum);
    });
  });
  if (k.grad_a) add_transposed(a_sums.total(groups), d, r, k.grad_a.as<float>());
}

void combine(const Cpu& cpu, const LowRankCombineForward& k, Workspace scratch) {
  const Blocks blocks(k);
  const int64_t d = blocks.d, ranks = blocks.ranks(), rows = k.h.rows();
  float* c = scratch.take<float>(ranks * d);
  float* u = scratch.take<float>(rows * ranks);
  blocks.stack(k.c, c);
  parallel_ranges(cpu, rows, 8, [&](int64_t begin, int64_t end) {
    blocks.join(k.u, begin, end, u);
    for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
      float* h = k.h.as<float>() + row * d;
      combine_factors<decltype(tile)::value>(u + row * ranks, c, ranks, d,
                                             [&](int i, V total, auto, auto put) HWY_ATTR { put(total, h + i * d); });
    });
  });
}

void combine_backward(const Cpu& cpu, const LowRankCombineBackward& k, Workspace scratch) {
  const Blocks blocks(k);
  const int64_t d = blocks.d, ranks = blocks.ranks(), rows = k.grad_h.rows(), groups = group_count(rows),
                per_group = group_rows(rows);
  if (rows == 0) return;
  const bool wants_u = !k.grad_u.empty(), wants_c = !k.grad_c.empty();
  float* c = wants_u ? scratch.take<float>(ranks * d) : nullptr;
  float* gu = wants_u ? scratch.take<float>(rows * ranks) : nullptr;
  float* u = wants_c ? scratch.take<float>(rows * ranks) : nullptr;
  const GroupSums c_sums(wants_c, groups, ranks * d, scratch);
  if (wants_u) blocks.stack(k.c, c);
  parallel_items(cpu, groups, [&](int64_t group) {
    const int64_t begin = group * per_group, end = std::min(rows, begin + per_group);
    float* c_sum = c_sums.start(group);
    if (wants_c) blocks.join(k.u, begin, end, u);
    for_each_tile(begin, end, [&](auto tile, int64_t row) HWY_ATTR {
      constexpr int kRows = decltype(tile)::value;
      const float* g = k.grad_h.as<float>() + row * d;
      if (wants_u) row_products<kRows>(g, c, ranks, d, gu + row * ranks);
      if (wants_c) add_outer_products<kRows>(u + row * ranks, g, ranks, d, c_sum);
    });
    if (wants_u) blocks.add_parts(gu, begin, end, k.grad_u);
  });
  if (!wants_c) return;
  const float* total = c_sums.total(groups);
  for (int64_t j = 0; j < blocks.count; j++) add_row(total + j * blocks.r * d, blocks.r * d, k.grad_c[j].as<float>());
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
void low_rank_project_forward(const Cpu& cpu, const LowRankProjectForward& k, Workspace scratch) {
  k.z.dtype == DType::bf16 ? project<bf16_t>(cpu, k, scratch) : project<float>(cpu, k, scratch);
}
void low_rank_project_backward(const Cpu& cpu, const LowRankProjectBackward& k, Workspace scratch) {
  k.z.dtype == DType::bf16 ? project_backward<bf16_t>(cpu, k, scratch) : project_backward<float>(cpu, k, scratch);
}
void low_rank_combine_forward(const Cpu& cpu, const LowRankCombineForward& k, Workspace scratch) { combine(cpu, k, scratch); }
void low_rank_combine_backward(const Cpu& cpu, const LowRankCombineBackward& k, Workspace scratch) {
  combine_backward(cpu, k, scratch);
}

}  // namespace
}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sidetune::cpu {

HWY_EXPORT(low_rank_accumulate_forward);
HWY_EXPORT(low_rank_undo);
HWY_EXPORT(low_rank_accumulate_backward);
HWY_EXPORT(low_rank_project_forward);
HWY_EXPORT(low_rank_project_backward);
HWY_EXPORT(low_rank_combine_forward);
HWY_EXPORT(low_rank_combine_backward);

void run(Cpu& cpu, const LowRankAccumulateForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(low_rank_accumulate_forward)(cpu, k, scratch);
}
void run(Cpu& cpu, const LowRankUndo& k, Workspace) { HWY_DYNAMIC_DISPATCH(low_rank_undo)(cpu, k); }
void run(Cpu& cpu, const LowRankAccumulateBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(low_rank_accumulate_backward)(cpu, k, scratch);
}
void run(Cpu& cpu, const LowRankProjectForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(low_rank_project_forward)(cpu, k, scratch);
}
void run(Cpu& cpu, const LowRankProjectBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(low_rank_project_backward)(cpu, k, scratch);
}
void run(Cpu& cpu, const LowRankCombineForward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(low_rank_combine_forward)(cpu, k, scratch);
}
void run(Cpu& cpu, const LowRankCombineBackward& k, Workspace scratch) {
  HWY_DYNAMIC_DISPATCH(low_rank_combine_backward)(cpu, k, scratch);
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

int64_t workspace(Cpu&, const LowRankProjectForward& k) { return Workspace::aligned<float>(k.a.size()); }

int64_t workspace(Cpu&, const LowRankProjectBackward& k) {
  return Workspace::aligned<float>(k.a.size()) + (k.grad_a ? Workspace::aligned<float>(group_count(k.z.rows()) * k.a.size()) : 0);
}

int64_t workspace(Cpu&, const LowRankCombineForward& k) {
  const int64_t blocks = static_cast<int64_t>(k.c.size()), ranks = blocks * k.c[0].dim(0);
  return Workspace::aligned<float>(ranks * k.h.dim(-1)) + Workspace::aligned<float>(k.h.rows() * ranks);
}

int64_t workspace(Cpu&, const LowRankCombineBackward& k) {
  const int64_t rows = k.grad_h.rows(), d = k.grad_h.dim(-1), ranks = static_cast<int64_t>(k.c.size()) * k.c[0].dim(0);
  const int64_t joined = Workspace::aligned<float>(rows * ranks);
  return (k.grad_u.empty() ? 0 : Workspace::aligned<float>(ranks * d) + joined) +
         (k.grad_c.empty() ? 0 : joined + Workspace::aligned<float>(group_count(rows) * ranks * d));
}

SIDETUNE_CPU_KERNEL(LowRankAccumulateForward)
SIDETUNE_CPU_KERNEL(LowRankUndo)
SIDETUNE_CPU_KERNEL(LowRankAccumulateBackward)
SIDETUNE_CPU_KERNEL(LowRankProjectForward)
SIDETUNE_CPU_KERNEL(LowRankProjectBackward)
SIDETUNE_CPU_KERNEL(LowRankCombineForward)
SIDETUNE_CPU_KERNEL(LowRankCombineBackward)

}  // namespace sidetune::cpu
#endif  // HWY_ONCE
