// A pass over rows of numbers with side layers in it: what they read, u = z a, what they add, u c, or both, and around it
// whatever else is to be done with the rows.
//
//   Change: template <int V> struct Before                                                     read before the sums: loads
//   overlap
//           template <int V> __device__ Before<V> read(int64_t place) const
//           template <int V> __device__ void change(int64_t place, const Before<V>&, Numbers<V> total) const       total = u c
//
// `place` counts numbers from the tensor's start. Going forth and back, u c is the same number.
#pragma once

#include "low_rank.cuh"
#include "shared.cuh"

namespace sidetune::cuda {

constexpr int64_t kMostRanks = 256;  // whose coefficients of a tile of rows are kept in shared memory

struct RowArguments {
  Pairs pairs;
  int64_t rows, d;
  const float* a = nullptr;
  float* u = nullptr;              // z a goes here, too
  bool changes = false;            // by u c
  int64_t padded = 0;              // ranks of factors that are laid out
  const float* factors = nullptr;  // a and c; null: in shared memory
  float* coefficients = nullptr;   // u by tiles; null: in shared memory
};

// A tile of rows changes by u c; u is [ranks, kRows].
template <int V, class Change>
__device__ void change_tile(const Change& change, const float* u, const float* factors, int64_t ranks, int count, int64_t d,
                            int64_t row) {
  for (int64_t column = lane() * V; column < d; column += kWarp * V) {
    typename Change::template Before<V> before[kRows] = {};
    Numbers<V> totals[kRows] = {};
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      if (i < count) before[i] = change.template read<V>((row + i) * d + column);
    }
#pragma unroll 2
    for (int64_t j = 0; j < ranks; j++) {
      const Numbers<V> factor = load<V>(factors + j * d + column);
      const Numbers<kRows> coefficients = load<kRows>(u + j * kRows);
#pragma unroll
      for (int i = 0; i < kRows; i++) {
#pragma unroll
        for (int n = 0; n < V; n++) totals[i][n] = fmaf(coefficients[i], factor[n], totals[i][n]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      if (i < count) change.template change<V>((row + i) * d + column, before[i], totals[i]);
    }
  }
}

// A warp owns four rows at a time: u = z a, kRanks at once, or (0) u is read; then the rows change. Each number is read and
// written once; factors come to shared memory once per block, and a tile's u is kept there, too.
template <class T, int V, int kRanks, class Change>
__global__ void __launch_bounds__(512, 1) row_kernel(const T* z, const RowArguments k, const Change change) {
  SharedMemory shared;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int64_t ranks = k.pairs.ranks(), size = k.padded * k.d;
  constexpr bool kProjects = kRanks > 0;
  const float *a = k.factors, *c = k.factors + (kProjects ? size : 0);
  if (!k.factors) {
    float* own_a = kProjects ? shared.take<float>(size) : nullptr;
    float* own_c = k.changes ? shared.take<float>(size) : nullptr;
    if (kProjects) take_projection(k.a, ranks, k.d, k.padded, threadIdx.x, blockDim.x, own_a);
    if (k.changes) take_factors(k.pairs, k.d, k.padded, threadIdx.x, blockDim.x, own_c);
    a = own_a, c = own_c;
    __syncthreads();
  }
  float* coefficients = k.coefficients ? nullptr : shared.take<float>(warps * ranks * kRows) + warp() * ranks * kRows;
  const int64_t first_row = (static_cast<int64_t>(blockIdx.x) * warps + warp()) * kRows;
  for (int64_t row = first_row; row < k.rows; row += static_cast<int64_t>(gridDim.x) * warps * kRows) {
    const int count = k.rows - row < kRows ? static_cast<int>(k.rows - row) : kRows;
    float* u = coefficients ? coefficients : k.coefficients + row * ranks;
    if constexpr (kProjects) {
      for (int64_t first = 0; first < ranks; first += kRanks) {
        float sums[kRows * kRanks] = {};
        add_row_products<V, kRanks>(z + row * k.d, count, k.d, a + first * k.d, sums);
        const float sum = warp_sums(sums);
        const int64_t j = first + lane() / kRows, i = lane() % kRows;
        if (lane() < kRows * kRanks && j < ranks) {
          u[j * kRows + i] = sum;
          if (k.u && i < count) k.u[(row + i) * ranks + j] = sum;
        }
      }
    } else {
      for (int64_t at = lane(); at < ranks * kRows; at += kWarp) {
        const int64_t j = at / kRows, i = at % kRows;
        u[at] = i < count ? k.pairs.u[j / k.pairs.r][(row + i) * k.pairs.r + j % k.pairs.r] : 0.0f;
      }
    }
    if (!k.changes) continue;
    __syncwarp();
    change_tile<V>(change, u, c, ranks, count, k.d, row);
    __syncwarp();  // before the next tile's u
  }
}

// Scratch of factors and coefficients that may not fit into shared memory.
inline int64_t factor_floats(int64_t ranks, int64_t d) { return 2 * round_up(ranks, 8) * d; }
inline int64_t row_workspace(int64_t rows, int64_t ranks, int64_t d) {
  return Workspace::aligned<float>(factor_floats(ranks, d)) +
         (ranks > kMostRanks ? Workspace::aligned<float>(round_up(rows, kRows) * ranks) : 0);
}

template <class T, int V, int kRanks, class Change>
void launch_rows(Cuda& cuda, const T* z, RowArguments k, const Change& change, Workspace scratch) {
  const int64_t ranks = k.pairs.ranks(), tiles = divide_up(k.rows, kRows), most = cuda.properties.most_shared_bytes;
  if (tiles == 0 || k.d == 0) return;
  constexpr bool kProjects = kRanks > 0;
  float* factors = scratch.take<float>(factor_floats(ranks, k.d));
  if (ranks > kMostRanks) k.coefficients = scratch.take<float>(round_up(k.rows, kRows) * ranks);
  k.padded = kProjects ? round_up(ranks, kRanks) : ranks;
  // More warps share a block's factors where there are rows enough for every multiprocessor.
  const int64_t tile_bytes = k.coefficients ? 0 : ranks * kRows * sizeof(float);
  int64_t warps = std::clamp<int64_t>(divide_up(tiles, cuda.properties.multiprocessors), 4, 16);
  while (warps * tile_bytes > most) warps /= 2;
  int64_t bytes = k.coefficients ? 0 : shared_bytes<float>(warps * ranks * kRows);
  const int64_t factor_bytes = ((kProjects ? 1 : 0) + (k.changes ? 1 : 0)) * shared_bytes<float>(k.padded * k.d);
  if (bytes + factor_bytes <= most) {
    bytes += factor_bytes;
  } else {
    lay_out_factors(cuda, k.a, k.pairs, k.d, k.padded, k.changes, factors);
    k.factors = factors;
  }
  launch(cuda, row_kernel<T, V, kRanks, Change>,
         {blocks_for(cuda.properties, tiles, warps, 2), static_cast<int>(warps) * kWarp, bytes}, z, k, change);
}

// u = z a, and the rows change if k says so.
template <class T, class Change>
void pass_rows(Cuda& cuda, const T* z, const RowArguments& k, const Change& change, Workspace scratch) {
  dispatch_ranks(k.d, k.pairs.ranks(),
                 [&](auto width, auto chunk) { launch_rows<T, width.value, chunk.value>(cuda, z, k, change, scratch); });
}
// The rows change by the pairs' u c.
template <class Change>
void change_rows(Cuda& cuda, const Pairs& pairs, int64_t rows, int64_t d, const Change& change, Workspace scratch) {
  RowArguments k{pairs, rows, d};
  k.changes = true;
  dispatch_fours(d, [&](auto width) { launch_rows<float, width.value, 0>(cuda, nullptr, k, change, scratch); });
}

// h = u c, h + u c or h − u c.
struct HChange {
  enum Kind { write, add, subtract } kind = add;
  float* h = nullptr;

  template <int V>
  struct Before {
    Numbers<V> h;
  };
  template <int V>
  __device__ Before<V> read(int64_t place) const {
    Before<V> before = {};
    if (kind != write) before.h = load<V>(h + place);
    return before;
  }
  template <int V>
  __device__ void change(int64_t place, const Before<V>& before, Numbers<V> total) const {
#pragma unroll
    for (int n = 0; n < V; n++) {
      if (kind == add) total[n] = before.h[n] + total[n];
      if (kind == subtract) total[n] = before.h[n] - total[n];
    }
    store(h + place, total);
  }
};

}  // namespace sidetune::cuda
