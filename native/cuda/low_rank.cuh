// What the kernels of low-rank side layers share: the factors of a launch, and products of rows with them.
#pragma once

#include "../low_rank.h"
#include "launch.cuh"
#include "vector.cuh"
#include "warp.cuh"

namespace sidetune::cuda {

constexpr int kRows = 4;  // that a warp works off at a time: each load of a factor serves all of them

// The factors of a launch: u_j [rows, r] with c_j [r, d], one pair for each block of the network. Pairs stand one below the other
// as one product of inner size count · r.
struct Pairs {
  static constexpr int kMost = 64;
  int count = 0;
  int64_t r = 0;
  const float *u[kMost] = {}, *c[kMost] = {};
  float *grad_u[kMost] = {}, *grad_c[kMost] = {};

  __host__ __device__ int64_t ranks() const { return count * r; }
};

// As many pairs of the lists as a launch takes, from `first` on.
Pairs pairs_from(size_t first, const TensorList& u, const TensorList& c, const TensorList& grad_u, const TensorList& grad_c);
inline int64_t most_ranks(const TensorList& c) { return std::min<int64_t>(c.size(), Pairs::kMost) * c[0].dim(0); }

// h = Σ_j u_j c_j, with the scratch that row_workspace (low_rank_rows.cuh) says for most_ranks(c).
void combine(Cuda& cuda, const TensorList& u, const TensorList& c, float* h, Workspace scratch);

// One pair.
Pairs pair(const Tensor& u, int64_t r, const Tensor& c, const Tensor& grad_c);

// a [d, r] as [padded, d], with rows of zeros to the end. Threads of a block or of a grid share.
__device__ inline void take_projection(const float* a, int64_t r, int64_t d, int64_t padded, int64_t thread, int64_t threads,
                                       float* to) {
  for (int64_t j = 0; j < padded; j++) {
    for (int64_t column = thread; column < d; column += threads) to[j * d + column] = j < r ? a[column * r + j] : 0.0f;
  }
}
// The pairs' c as [padded, d], the same way.
__device__ inline void take_factors(const Pairs& pairs, int64_t d, int64_t padded, int64_t thread, int64_t threads, float* to) {
  for (int64_t j = 0; j < padded; j++) {
    const float* from = j < pairs.ranks() ? pairs.c[j / pairs.r] + j % pairs.r * d : nullptr;
    for (int64_t column = thread; column < d; column += threads) to[j * d + column] = from ? from[column] : 0.0f;
  }
}

// A lane's part of the sums Σ_column rows[i, column] factors[j, column] of a tile of rows and kRanks factors, at j · kRows + i.
template <int V, int kRanks, class T>
__device__ void add_row_products(const T* rows, int count, int64_t d, const float* factors, float (&sums)[kRows * kRanks]) {
#pragma unroll(kRanks < 4 ? 2 : 1)
  for (int64_t column = lane() * V; column < d; column += kWarp * V) {
    Numbers<V> x[kRows] = {};
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      if (i < count) x[i] = load<V>(rows + i * d + column);
    }
#pragma unroll
    for (int j = 0; j < kRanks; j++) {
      const Numbers<V> factor = load<V>(factors + j * d + column);
#pragma unroll
      for (int i = 0; i < kRows; i++) {
#pragma unroll
        for (int n = 0; n < V; n++) sums[j * kRows + i] = fmaf(x[i][n], factor[n], sums[j * kRows + i]);
      }
    }
  }
}

// Where factors are too large for shared memory, they are laid out in scratch memory: a (unless null), then c, each [padded, d].
void lay_out_factors(Cuda& cuda, const float* a, const Pairs& pairs, int64_t d, int64_t padded, bool wants_c, float* to);

// Ranks are worked off 1, 2, 4 or 8 at a time; rare widths have one path.
template <class Body>
void dispatch_ranks(int64_t d, int64_t ranks, const Body& body) {
  if (d % 4) return body(Width<1>{}, Width<8>{});
  if (ranks <= 1) return body(Width<4>{}, Width<1>{});
  if (ranks <= 2) return body(Width<4>{}, Width<2>{});
  if (ranks <= 4) return body(Width<4>{}, Width<4>{});
  body(Width<4>{}, Width<8>{});
}

// gradA (unless null) and gradC (if wanted) take the sums of groups of rows: [group][gradA, gradC][ranks, d].
void add_sums(Cuda& cuda, const float* sums, int64_t groups, const Pairs& pairs, float* grad_a, bool wants_c, int64_t d);

}  // namespace sidetune::cuda
