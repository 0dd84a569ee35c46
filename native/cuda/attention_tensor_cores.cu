// Tiled attention in bf16. A warp owns 16 (in forward of narrow heads 32) rows of queries or keys, whose operands and sums it
// keeps in registers; a block of up to four warps shares the tiles of the other side, which stream through two stages of shared
// memory: while one is multiplied, the next is under way. Scores never leave registers, since accumulators of one product are
// rounded to left operands of the next.
#include <cmath>

#include "attention.cuh"
#include "mma.cuh"
#include "shared.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kMostWarps = 4;

template <int E>
struct Tiling {
  static constexpr int kBlocks = E <= 64 ? 2 : 1;     // of 16 queries that a warp of forward owns
  static constexpr int kKeys = E <= 64 ? 64 : 32;     // of a tile
  static constexpr int kQueries = E <= 80 ? 32 : 16;  // of a tile in backward by keys
};

// Begins to bring `rows` rows of a head, from token `first` on, into a tile. Zeros stand beyond the last token and the head's
// width. Heads whose rows are no multiple of 16 bytes are copied number by number.
template <int E>
__device__ void load_tile(const AttentionShape& shape, const bf16_t* head, int64_t stride, int64_t first, int rows,
                          bf16_t* tile) {
  constexpr int kChunks = Tile<E>::kChunks;
  const int width = static_cast<int>(shape.width);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * kChunks; i += static_cast<int>(blockDim.x)) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < shape.tokens && chunk * 8 < width;
    const bf16_t* from = valid ? head + (first + row) * stride + chunk * 8 : head;
    bf16_t* to = tile + Tile<E>::at(row, chunk);
    if (width % 8 == 0) {
      copy_async_16(to, from, valid);
    } else {
      for (int c = 0; c < 8; c++) to[c] = valid && chunk * 8 + c < width ? from[c] : __float2bfloat16_rn(0);
    }
  }
}

// A warp's 16 rows of accumulators, times a factor for the upper and the lower eight, become rows of a head from token `first`
// on. They pass through `tile`, the warp's own 16 rows of shared memory, so that memory is written 16 bytes at a time.
template <int E>
__device__ void store_rows(const AttentionShape& shape, const float (&sums)[E / 8][4], const float (&factors)[2], bf16_t* tile,
                           bf16_t* head, int64_t stride, int64_t first) {
  constexpr int kChunks = Tile<E>::kChunks;
  const int width = static_cast<int>(shape.width);
  warp_barrier();
#pragma unroll
  for (int j = 0; j < E / 8; j++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      bf16_t* to = tile + Tile<E>::at(lane() / 4 + 8 * half, j) + lane() % 4 * 2;
      *reinterpret_cast<uint32_t*>(to) = pair(sums[j][2 * half] * factors[half], sums[j][2 * half + 1] * factors[half]);
    }
  }
  warp_barrier();
#pragma unroll 1
  for (int i = lane(); i < 16 * kChunks; i += kWarp) {
    const int row = i / kChunks, chunk = i % kChunks;
    if (first + row >= shape.tokens || chunk * 8 >= width) continue;
    const bf16_t* from = tile + Tile<E>::at(row, chunk);
    bf16_t* to = head + (first + row) * stride + chunk * 8;
    if (width % 8 == 0) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
      for (int c = 0; c < 8 && chunk * 8 + c < width; c++) to[c] = from[c];
    }
  }
}

// Scores of keys beyond the last one, of a tile that has `count`, shall become p = 0.
template <int Blocks, int Keys8>
__device__ void close_rows(float (&s)[Blocks][Keys8][4], float scale, int count) {
  if (count >= 8 * Keys8) return;
#pragma unroll
  for (int block = 0; block < Blocks; block++) {
#pragma unroll
    for (int j = 0; j < Keys8; j++) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (8 * j + lane() % 4 * 2 + i % 2 >= count) s[block][j][i] = score_beyond(scale);
    }
  }
}

template <int Blocks, int Keys8>
__device__ void round_rows(const float (&numbers)[Blocks][Keys8][4], Fragment (&operands)[Blocks][Keys8 / 2]) {
#pragma unroll
  for (int block = 0; block < Blocks; block++) {
#pragma unroll
    for (int j = 0; j < Keys8 / 2; j++) operands[block][j] = rounded(numbers[block][2 * j], numbers[block][2 * j + 1]);
  }
}

// Softmax of rows that come tile by tile: the largest score so far, to base 2, and the sum of p against it, of which each lane
// has the part of its own columns. Of a block of 16 rows, a lane has two.
template <int Blocks>
struct OnlineSoftmax {
  float top[Blocks][2], sum[Blocks][2];

  __device__ OnlineSoftmax() {
#pragma unroll
    for (int block = 0; block < Blocks; block++) top[block][0] = top[block][1] = -INFINITY, sum[block][0] = sum[block][1] = 0;
  }

  // Scores become p; what was summed with the p of earlier tiles is brought to the new top.
  template <int Keys8, int E8>
  __device__ void add(float (&s)[Blocks][Keys8][4], float scale, float (&out)[Blocks][E8][4]) {
#pragma unroll
    for (int block = 0; block < Blocks; block++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float peak = top[block][half];
#pragma unroll
        for (int j = 0; j < Keys8; j++)
          peak = fmaxf(peak, fmaxf(s[block][j][2 * half] * scale, s[block][j][2 * half + 1] * scale));
        peak = warp_max<4>(peak);
        const float correction = exp2f(top[block][half] - peak);
        float total = sum[block][half] * correction;
#pragma unroll
        for (int j = 0; j < Keys8; j++) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; i++) total += s[block][j][i] = exp2f(fmaf(s[block][j][i], scale, -peak));
        }
        top[block][half] = peak, sum[block][half] = total;
#pragma unroll
        for (int j = 0; j < E8; j++) out[block][j][2 * half] *= correction, out[block][j][2 * half + 1] *= correction;
      }
    }
  }
};

// A block owns queries of a head, a warp 16 · kBlocks of them; tiles of keys and values stream by. The first stage is filled
// while the queries pass through the second.
template <int E>
__global__ void __launch_bounds__(kMostWarps* kWarp, 2)
    attention_forward(const AttentionShape shape, const bf16_t* qkv, bf16_t* out, float* lse, int64_t blocks_of_head) {
  constexpr int kBlocks = Tiling<E>::kBlocks, kKeys = Tiling<E>::kKeys, kStage = 2 * kKeys * E;
  static_assert(kMostWarps * 16 * kBlocks <= 2 * kKeys, "queries fit a stage");
  SharedMemory shared;
  bf16_t* stages = shared.take<bf16_t>(2 * kStage);
  const int rows = static_cast<int>(blockDim.x) / kWarp * 16 * kBlocks, own = warp() * 16 * kBlocks;
  const float scale = shape.scale_to_base_2();
  const int64_t d = shape.d(), stride = 3 * d;
  for (int64_t item = blockIdx.x; item < shape.all_heads() * blocks_of_head; item += gridDim.x) {
    const int64_t head = item / blocks_of_head, first = item % blocks_of_head * rows;
    const bf16_t *q = qkv + shape.at(head, 3), *k = q + d, *v = k + d;
    const auto load_stage = [&](int stage, int64_t begin) {
      load_tile<E>(shape, k, stride, begin, kKeys, stages + stage * kStage);
      load_tile<E>(shape, v, stride, begin, kKeys, stages + stage * kStage + kStage / 2);
      copy_async_commit();
    };
    load_tile<E>(shape, q, stride, first, rows, stages + kStage);
    copy_async_commit();
    load_stage(0, 0);
    copy_async_wait<1>();
    __syncthreads();
    const KeptRows<kBlocks, E> queries(stages + kStage + own * E);

    float sums[kBlocks][E / 8][4] = {};
    OnlineSoftmax<kBlocks> softmax;
    int stage = 0;
    for (int64_t begin = 0; begin < shape.tokens; begin += kKeys, stage ^= 1) {
      copy_async_wait<0>();
      __syncthreads();
      if (begin + kKeys < shape.tokens) load_stage(stage ^ 1, begin + kKeys);
      if (first + own >= shape.tokens) continue;
      const bf16_t *keys = stages + stage * kStage, *values = keys + kStage / 2;
      const int count = static_cast<int>(shape.tokens - begin < kKeys ? shape.tokens - begin : kKeys);
      float p[kBlocks][kKeys / 8][4] = {};
      multiply_by_rows<E>(p, queries, keys, count);
      close_rows(p, scale, count);
      softmax.add(p, scale, sums);
      Fragment operands[kBlocks][kKeys / 16];
      round_rows(p, operands);
      multiply_by_columns<E>(sums, operands, values, count);
    }
    __syncthreads();
#pragma unroll
    for (int block = 0; block < kBlocks; block++) {
      const int64_t row = first + own + 16 * block;
      float factors[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float sum = warp_sum<4>(softmax.sum[block][half]);
        const int64_t query = row + lane() / 4 + 8 * half;
        factors[half] = 1.0f / sum;
        if (lse && lane() % 4 == 0 && query < shape.tokens)
          lse[head * shape.tokens + query] = (softmax.top[block][half] + log2f(sum)) * kLn2;
      }
      store_rows<E>(shape, sums[block], factors, stages + (own + 16 * block) * E, out + shape.at(head, 1), d, row);
    }
    __syncthreads();
  }
}

// A block owns queries of a head, a warp 16 of them. Tiles of keys and values stream by twice: first for the rows' statistics,
// which go to memory for backward by keys, too, then for ds and gradQ.
template <int E>
__global__ void __launch_bounds__(kMostWarps* kWarp, 2)
    attention_backward_queries(const AttentionShape shape, const bf16_t* grad_out, const bf16_t* qkv, const float* lse,
                               bf16_t* grad_qkv, RowStatistics* statistics, int64_t blocks_of_head) {
  constexpr int kKeys = Tiling<E>::kKeys, kStage = 2 * kKeys * E;
  static_assert(kMostWarps * 16 <= 2 * kKeys, "queries and gradients fit two stages, and results the first");
  SharedMemory shared;
  bf16_t* stages = shared.take<bf16_t>(2 * kStage);
  const int rows = static_cast<int>(blockDim.x) / kWarp * 16, own = warp() * 16;
  const float scale = shape.scale_to_base_2();
  const int64_t d = shape.d(), stride = 3 * d;
  for (int64_t item = blockIdx.x; item < shape.all_heads() * blocks_of_head; item += gridDim.x) {
    const int64_t head = item / blocks_of_head, first = item % blocks_of_head * rows;
    const bf16_t *q = qkv + shape.at(head, 3), *k = q + d, *v = k + d;
    load_tile<E>(shape, q, stride, first, rows, stages);
    load_tile<E>(shape, grad_out + shape.at(head, 1), d, first, rows, stages + rows * E);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    const KeptRows<1, E> queries(stages + own * E), grads(stages + (rows + own) * E);
    __syncthreads();
    const auto load_stage = [&](int stage, int64_t begin) {
      load_tile<E>(shape, k, stride, begin, kKeys, stages + stage * kStage);
      load_tile<E>(shape, v, stride, begin, kKeys, stages + stage * kStage + kStage / 2);
      copy_async_commit();
    };
    load_stage(0, 0);

    const int64_t query = first + own + lane() / 4;  // and the eighth behind it
    float row_lse[2], total[2] = {}, factor[2] = {}, mean_dp[2] = {};
#pragma unroll
    for (int half = 0; half < 2; half++)
      row_lse[half] = query + 8 * half < shape.tokens ? lse[head * shape.tokens + query + 8 * half] * kLog2e : 0;
    float sums[1][E / 8][4] = {};
    int stage = 0;
#pragma unroll 1
    for (int pass = 0; pass < 2; pass++) {
      for (int64_t begin = 0; begin < shape.tokens; begin += kKeys, stage ^= 1) {
        copy_async_wait<0>();
        __syncthreads();
        const int64_t next = begin + kKeys < shape.tokens ? begin + kKeys : 0;
        if (pass == 0 || next > 0) load_stage(stage ^ 1, next);
        if (first + own >= shape.tokens) continue;
        const bf16_t *keys = stages + stage * kStage, *values = keys + kStage / 2;
        const int count = static_cast<int>(shape.tokens - begin < kKeys ? shape.tokens - begin : kKeys);
        float p[1][kKeys / 8][4] = {}, dp[1][kKeys / 8][4] = {};
        multiply_by_rows<E>(p, queries, keys, count);
        close_rows(p, scale, count);
        multiply_by_rows<E>(dp, grads, values, count);
#pragma unroll
        for (int j = 0; j < kKeys / 8; j++) {
#pragma unroll
          for (int i = 0; i < 4; i++) p[0][j][i] = exp2f(fmaf(p[0][j][i], scale, -row_lse[i / 2]));
        }
        if (pass == 0) {
#pragma unroll
          for (int j = 0; j < kKeys / 8; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
              total[i / 2] += p[0][j][i], mean_dp[i / 2] = fmaf(p[0][j][i], dp[0][j][i], mean_dp[i / 2]);
          }
          continue;
        }
#pragma unroll
        for (int j = 0; j < kKeys / 8; j++) {
#pragma unroll
          for (int i = 0; i < 4; i++) p[0][j][i] *= factor[i / 2] * (dp[0][j][i] - mean_dp[i / 2]);
        }
        Fragment ds[1][kKeys / 16];
        round_rows(p, ds);
        multiply_by_columns<E>(sums, ds, keys, count);
      }
      if (pass > 0) break;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        factor[half] = 1.0f / warp_sum<4>(total[half]);
        mean_dp[half] = warp_sum<4>(mean_dp[half]) * factor[half];
        if (lane() % 4 == 0 && query + 8 * half < shape.tokens)
          statistics[head * shape.tokens + query + 8 * half] = make_float4(row_lse[half], factor[half], mean_dp[half], 0);
      }
    }
    // The last tile of an even number of them is in the second stage: the first is free.
    const float factors[2] = {shape.scale, shape.scale};
    store_rows<E>(shape, sums[0], factors, stages + own * E, grad_qkv + shape.at(head, 3), stride, first + own);
    __syncthreads();
  }
}

// Shared memory of backward by keys, and what fits: two stages, else one.
template <int E>
struct KeysPlan {
  int warps = kMostWarps, stages = 2;

  KeysPlan(const Properties& properties, int wanted_warps) : warps(wanted_warps) {
    static_assert(bytes(kMostWarps, 1) <= 48 << 10, "one stage fits any device");
    if (bytes() > properties.most_shared_bytes) stages = 1;
  }
  int64_t bytes() const { return bytes(warps, stages); }

 private:
  static constexpr int64_t bytes(int warps, int stages) {
    constexpr int kQueries = Tiling<E>::kQueries;
    return shared_bytes<bf16_t>(2 * 16 * warps * E) + shared_bytes<bf16_t>(stages * 2 * kQueries * E) +
           shared_bytes<RowStatistics>(stages * kQueries);
  }
};

// A block owns keys and values of a head, a warp 16 of them, as left operands: scores are transposed here. Tiles of queries and
// gradients stream by with their statistics. Wide heads' left operands are read again for each tile, to spare registers.
template <int E>
__global__ void __launch_bounds__(kMostWarps* kWarp, 2)
    attention_backward_keys(const AttentionShape shape, const bf16_t* grad_out, const bf16_t* qkv,
                            const RowStatistics* statistics, bf16_t* grad_qkv, int64_t blocks_of_head, int stages) {
  using Rows = std::conditional_t<E <= 64, KeptRows<1, E>, ReadRows<E>>;
  constexpr int kQueries = Tiling<E>::kQueries, kStage = 2 * kQueries * E;
  SharedMemory shared;
  const int rows = static_cast<int>(blockDim.x) / kWarp * 16, own = warp() * 16;
  bf16_t* own_keys = shared.take<bf16_t>(2 * rows * E);
  bf16_t* own_values = own_keys + rows * E;
  bf16_t* tiles = shared.take<bf16_t>(stages * kStage);
  RowStatistics* tile_statistics = shared.take<RowStatistics>(stages * kQueries);
  const float scale = shape.scale_to_base_2();
  const int64_t d = shape.d(), stride = 3 * d;
  for (int64_t item = blockIdx.x; item < shape.all_heads() * blocks_of_head; item += gridDim.x) {
    const int64_t head = item / blocks_of_head, first = item % blocks_of_head * rows;
    const bf16_t *q = qkv + shape.at(head, 3), *g = grad_out + shape.at(head, 1);
    const auto load_stage = [&](int stage, int64_t begin) {
      load_tile<E>(shape, q, stride, begin, kQueries, tiles + stage * kStage);
      load_tile<E>(shape, g, d, begin, kQueries, tiles + stage * kStage + kStage / 2);
      for (int i = static_cast<int>(threadIdx.x); i < kQueries; i += static_cast<int>(blockDim.x)) {
        const bool valid = begin + i < shape.tokens;
        copy_async_16(tile_statistics + stage * kQueries + i, statistics + head * shape.tokens + (valid ? begin + i : 0), valid);
      }
      copy_async_commit();
    };
    load_tile<E>(shape, q + d, stride, first, rows, own_keys);
    load_tile<E>(shape, q + 2 * d, stride, first, rows, own_values);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    const Rows keys(own_keys + own * E), values(own_values + own * E);
    load_stage(0, 0);

    float grad_k[1][E / 8][4] = {}, grad_v[1][E / 8][4] = {};
    int stage = 0;
    for (int64_t begin = 0; begin < shape.tokens; begin += kQueries) {
      copy_async_wait<0>();
      __syncthreads();
      const bf16_t *queries = tiles + stage * kStage, *grads = queries + kStage / 2;
      const RowStatistics* rows_of_tile = tile_statistics + stage * kQueries;
      const bool more = begin + kQueries < shape.tokens;
      if (stages == 2) {
        stage ^= 1;
        if (more) load_stage(stage, begin + kQueries);
      }
      if (first + own < shape.tokens) {
        float p[1][kQueries / 8][4] = {};
        multiply_by_rows<E>(p, keys, queries, kQueries);
#pragma unroll
        for (int j = 0; j < kQueries / 8; j++) {
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const RowStatistics row = rows_of_tile[8 * j + lane() % 4 * 2 + i % 2];
            p[0][j][i] = exp2f(fmaf(p[0][j][i], scale, -row.x)) * row.y;
          }
        }
        Fragment operands[1][kQueries / 16];
        round_rows(p, operands);
        multiply_by_columns<E>(grad_v, operands, grads, kQueries);
        float ds[1][kQueries / 8][4] = {};
        multiply_by_rows<E>(ds, values, grads, kQueries);
#pragma unroll
        for (int j = 0; j < kQueries / 8; j++) {
#pragma unroll
          for (int i = 0; i < 4; i++) ds[0][j][i] = p[0][j][i] * (ds[0][j][i] - rows_of_tile[8 * j + lane() % 4 * 2 + i % 2].z);
        }
        round_rows(ds, operands);
        multiply_by_columns<E>(grad_k, operands, queries, kQueries);
      }
      if (stages == 1 && more) {
        __syncthreads();
        load_stage(0, begin + kQueries);
      }
    }
    const float scales[2] = {shape.scale, shape.scale}, ones[2] = {1, 1};
    bf16_t* to = grad_qkv + shape.at(head, 3) + d;
    store_rows<E>(shape, grad_k[0], scales, own_keys + own * E, to, stride, first + own);
    store_rows<E>(shape, grad_v[0], ones, own_values + own * E, to + d, stride, first + own);
    __syncthreads();
  }
}

// Blocks of a head, about equal, of at most `most_warps` warps that own `rows` rows each.
struct BlocksPlan {
  int64_t blocks_of_head;
  int warps;

  BlocksPlan(const AttentionShape& shape, int rows, int most_warps) {
    const int64_t owners = divide_up(shape.tokens, rows);
    blocks_of_head = divide_up(owners, most_warps);
    warps = static_cast<int>(divide_up(owners, blocks_of_head));
  }
  Grid grid(const Properties& properties, const AttentionShape& shape, int64_t shared_bytes) const {
    return {blocks_for(properties, shape.all_heads() * blocks_of_head, 1), warps * kWarp, shared_bytes};
  }
};

}  // namespace

void run_on_tensor_cores(Cuda& cuda, const attention::Forward& k) {
  const AttentionShape shape(k.qkv, k.heads, k.scale);
  dispatch_head(shape.width, [&](auto width) {
    constexpr int E = decltype(width)::value;
    const BlocksPlan plan(shape, 16 * Tiling<E>::kBlocks, kMostWarps);
    launch(cuda, attention_forward<E>, plan.grid(cuda.properties, shape, shared_bytes<bf16_t>(4 * Tiling<E>::kKeys * E)), shape,
           k.qkv.as<const bf16_t>(), k.out.as<bf16_t>(), k.lse.as<float>(), plan.blocks_of_head);
  });
}

void run_on_tensor_cores(Cuda& cuda, const attention::Backward& k, RowStatistics* statistics) {
  const AttentionShape shape(k.qkv, k.heads, k.scale);
  dispatch_head(shape.width, [&](auto width) {
    constexpr int E = decltype(width)::value;
    const BlocksPlan queries(shape, 16, kMostWarps);
    launch(cuda, attention_backward_queries<E>,
           queries.grid(cuda.properties, shape, shared_bytes<bf16_t>(4 * Tiling<E>::kKeys * E)), shape,
           k.grad_out.as<const bf16_t>(), k.qkv.as<const bf16_t>(), k.lse.as<const float>(), k.grad_qkv.as<bf16_t>(), statistics,
           queries.blocks_of_head);
    const KeysPlan<E> memory(cuda.properties, BlocksPlan(shape, 16, kMostWarps).warps);
    const BlocksPlan keys(shape, 16, memory.warps);
    launch(cuda, attention_backward_keys<E>, keys.grid(cuda.properties, shape, memory.bytes()), shape,
           k.grad_out.as<const bf16_t>(), k.qkv.as<const bf16_t>(), statistics, k.grad_qkv.as<bf16_t>(), keys.blocks_of_head,
           memory.stages);
  });
}

}  // namespace sidetune::cuda
