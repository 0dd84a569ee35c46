// Products of rows with a few factors, and sums of factors into rows: what side layers do. Include inside foreach_target files
// only.
#if defined(SIDETUNE_CPU_LOW_RANK_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SIDETUNE_CPU_LOW_RANK_INL_H
#undef SIDETUNE_CPU_LOW_RANK_INL_H
#else
#define SIDETUNE_CPU_LOW_RANK_INL_H
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../tensor.h"
#include "math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

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

// The blocks whose layers make up h stand side by side: one product of inner size M r, for which the factors c lie one below the
// other and the rows of u are joined.
struct Blocks {
  int64_t count, r, d;
  template <class Arguments>
  explicit Blocks(const Arguments& k) : count(static_cast<int64_t>(k.c.size())), r(k.c[0].dim(0)), d(k.c[0].dim(1)) {}

  int64_t ranks() const { return count * r; }
  void stack(const TensorList& c, float* factors) const {
    for (int64_t j = 0; j < count; j++) std::copy_n(c[j].as<float>(), r * d, factors + j * r * d);
  }
  void join(const TensorList& u, int64_t begin, int64_t end, float* joined) const {
    for (int64_t j = 0; j < count; j++) {
      for (int64_t row = begin; row < end; row++) std::copy_n(u[j].as<float>() + row * r, r, joined + row * ranks() + j * r);
    }
  }
  void add_parts(const float* joined, int64_t begin, int64_t end, const TensorList& parts) const {
    for (int64_t j = 0; j < count; j++) {
      float* part = parts[j].as<float>();
      for (int64_t row = begin; row < end; row++) {
        for (int64_t i = 0; i < r; i++) part[row * r + i] += joined[row * ranks() + j * r + i];
      }
    }
  }
};

// a [d, r] as [r, d].
inline void transpose(const float* a, int64_t d, int64_t r, float* transposed) {
  for (int64_t i = 0; i < d; i++) {
    for (int64_t j = 0; j < r; j++) transposed[j * d + i] = a[i * r + j];
  }
}
inline void add_transposed(const float* transposed, int64_t d, int64_t r, float* a) {
  for (int64_t i = 0; i < d; i++) {
    for (int64_t j = 0; j < r; j++) a[i * r + j] += transposed[j * d + i];
  }
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
