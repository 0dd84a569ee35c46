// Products of tiles in bf16 on tensor cores, by whole warps. A warp owns blocks of 16 rows of the result.
//
// Tiles lie in shared memory, row after row, `Columns` numbers (a multiple of 16) long, and begin a multiple of 16 rows behind
// its start. Accumulators are the hardware's: of the 16x8 block at columns 8 j, number i of lane l is row l / 4 + 8 (i / 2),
// column 8 j + 2 (l % 4) + i % 2.
#pragma once

#include <mma_instructions.cuh>

#include "shared.cuh"
#include "vector.cuh"
#include "warp.cuh"

namespace sidetune::cuda {

// Sixteen bytes of a row are a chunk. Chunks trade places within a row so that one column of chunks, which is what eight lanes
// read at a time, is spread over all banks.
template <int Columns>
struct Tile {
  static constexpr int kChunks = Columns / 8;
  static constexpr int kSpread = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : kChunks % 2 == 0 ? 2 : 1;

  __device__ static int flip(int row) { return row / (8 / kSpread) % kSpread; }
  // Where a chunk begins.
  __device__ static int at(int row, int chunk) { return row * Columns + (chunk ^ flip(row)) * 8; }
};

// 16x16 numbers: a left operand, or two right operands of eight columns each.
struct Fragment {
  uint32_t at[4];
};

// low and high, side by side, += a b.
__device__ inline void multiply(float (&low)[4], float (&high)[4], const Fragment& a, const Fragment& b) {
  const uint32_t first[2] = {b.at[0], b.at[1]}, second[2] = {b.at[2], b.at[3]};
  multiply_bf16(low, a.at, first);
  multiply_bf16(high, a.at, second);
}

// Two 16x8 blocks of accumulators, side by side, as a left operand.
__device__ inline Fragment rounded(const float (&low)[4], const float (&high)[4]) {
  return {{pair(low[0], low[1]), pair(low[2], low[3]), pair(high[0], high[1]), pair(high[2], high[3])}};
}

// Reads 16x16 blocks of tiles. What a lane brings along is worked out once: its row and chunk within a block.
template <int Columns>
class TileReader {
 public:
  // For left operands, and for right operands whose rows are summed over (read transposed).
  __device__ static TileReader along_rows() { return TileReader(lane() % 16, lane() / 16); }
  // For right operands whose columns are summed over.
  __device__ static TileReader along_columns() { return TileReader(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2); }

  // The block at row `row`, a multiple of 16, and column 16 k.
  __device__ Fragment read(const bf16_t* tile, int row, int k) const {
    Fragment fragment;
    load_matrix_x4(fragment.at, at(tile, row, k));
    return fragment;
  }
  __device__ Fragment read_transposed(const bf16_t* tile, int row, int k) const {
    Fragment fragment;
    load_matrix_x4_transposed(fragment.at, at(tile, row, k));
    return fragment;
  }

 private:
  __device__ TileReader(int row, int chunk) : offset_(Tile<Columns>::at(row, chunk)) {}
  __device__ const bf16_t* at(const bf16_t* tile, int row, int k) const {
    // Of a chunk's number, k changes the low bits and adds to the others. Done on the whole place, not on what is the same for
    // every tile: compilers would keep one register for each k.
    constexpr int kLow = Tile<Columns>::kSpread - 1;
    const auto* start = reinterpret_cast<const bf16_t*>(sidetune_shared);
    const int place = static_cast<int>(tile - start) + offset_;
    return start + (place ^ (2 * k & kLow) * 8) + (row * Columns + (2 * k & ~kLow) * 8);
  }

  int offset_;
};

// Left operands: 16 · Blocks rows of a tile, read once into registers, or (ReadRows) read again each time to spare them.
template <int Blocks, int Columns>
class KeptRows {
 public:
  __device__ explicit KeptRows(const bf16_t* rows) {
    const auto reader = TileReader<Columns>::along_rows();
#pragma unroll
    for (int block = 0; block < Blocks; block++) {
#pragma unroll
      for (int k = 0; k < Columns / 16; k++) kept_[block][k] = reader.read(rows, 16 * block, k);
    }
  }
  __device__ Fragment operator()(int block, int k) const { return kept_[block][k]; }

 private:
  Fragment kept_[Blocks][Columns / 16];
};
template <int Columns>
class ReadRows {
 public:
  __device__ explicit ReadRows(const bf16_t* rows) : rows_(rows), reader_(TileReader<Columns>::along_rows()) {}
  __device__ Fragment operator()(int block, int k) const { return reader_.read(rows_, 16 * block, k); }

 private:
  const bf16_t* rows_;
  TileReader<Columns> reader_;
};

// sums += a tileᵀ, for 8 · Rows8 rows of the tile; of every 32, none is looked at where all lie beyond `count`.
template <int Columns, int Blocks, int Rows8, class Left>
__device__ inline void multiply_by_rows(float (&sums)[Blocks][Rows8][4], const Left& a, const bf16_t* tile, int count) {
  constexpr int kStep = Rows8 < 4 ? 2 : 4;
  static_assert(Rows8 % kStep == 0, "16 or a multiple of 32 rows");
  const auto reader = TileReader<Columns>::along_columns();
#pragma unroll
  for (int begin = 0; begin < Rows8; begin += kStep) {
    if (8 * begin >= count) continue;
#pragma unroll
    for (int k = 0; k < Columns / 16; k++) {
      Fragment left[Blocks];
#pragma unroll
      for (int block = 0; block < Blocks; block++) left[block] = a(block, k);
#pragma unroll
      for (int j = begin; j < begin + kStep; j += 2) {
        const Fragment b = reader.read(tile, 8 * j, k);
#pragma unroll
        for (int block = 0; block < Blocks; block++) multiply(sums[block][j], sums[block][j + 1], left[block], b);
      }
    }
  }
}

// sums += a tile, for the first `count` rows of the tile, rounded up to 16; in `a` the columns beyond `count` are 0.
template <int Columns, int Blocks, int Rows16>
__device__ inline void multiply_by_columns(float (&sums)[Blocks][Columns / 8][4], const Fragment (&a)[Blocks][Rows16],
                                           const bf16_t* tile, int count) {
  const auto reader = TileReader<Columns>::along_rows();
#pragma unroll
  for (int j = 0; j < Rows16; j++) {
    if (16 * j >= count) continue;
#pragma unroll
    for (int k = 0; k < Columns / 16; k++) {
      const Fragment b = reader.read_transposed(tile, 16 * j, k);
#pragma unroll
      for (int block = 0; block < Blocks; block++) multiply(sums[block][2 * k], sums[block][2 * k + 1], a[block][j], b);
    }
  }
}

}  // namespace sidetune::cuda
