// Tiled attention in f32. A block of 16x16 threads owns rows of queries or keys, and tiles of 32 rows of the other side pass
// through shared memory one after another. Of a product over channels, a thread has `R` own rows, side by side, and two of the
// other side, 16 apart; of a product over the other side, the same own rows and each sixteenth channel. So rows of scores belong
// to 16 lanes of a warp. Own rows are 16 R: R changes no sum.
#include <cmath>

#include "attention.cuh"
#include "shared.cuh"
#include "warp.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kSide = 16, kThreads = kSide * kSide;
constexpr int kOthers = 2 * kSide;      // rows of the other side in a tile
constexpr int kScoreRow = kOthers + 4;  // rows in shared memory are an odd number of 16-byte words apart, against bank conflicts
template <int E>
constexpr int kTileRow = E + 4;

__device__ int own_row(int rows_of_thread) { return static_cast<int>(threadIdx.x) / kSide * rows_of_thread; }
__device__ int other_row() { return static_cast<int>(threadIdx.x) % kSide; }

// f32 or bf16 numbers in memory. Which of both is asked while tiles are read and results written, to compile all else once.
struct NumbersInMemory {
  void* data;
  bool is_bf16;

  template <int V>
  __device__ Numbers<V> read(int64_t i) const {
    return is_bf16 ? load<V>(static_cast<const bf16_t*>(data) + i) : load<V>(static_cast<const float*>(data) + i);
  }
  __device__ void write(int64_t i, float value) const {
    is_bf16 ? set(static_cast<bf16_t*>(data) + i, value) : set(static_cast<float*>(data) + i, value);
  }
};

// `rows` rows of a head that begins at `head`, from token `first` on. Zeros stand beyond the last token and the head's width.
template <int E>
__device__ void load_tile(const AttentionShape& shape, const NumbersInMemory& numbers, int64_t head, int64_t stride,
                          int64_t first, int rows, float* tile) {
  const int width = static_cast<int>(shape.width);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * (E / 4); i += kThreads) {
    const int row = i / (E / 4), column = i % (E / 4) * 4;
    const int64_t from = head + (first + row) * stride + column;
    Numbers<4> four = {};
    if (first + row < shape.tokens && column < width) {
      if (width % 4 == 0) {
        four = numbers.read<4>(from);
      } else {
        for (int c = 0; c < 4 && column + c < width; c++) four[c] = numbers.read<1>(from + c)[0];
      }
    }
    store(tile + row * kTileRow<E> + column, four);
  }
}

// s = own othersᵀ.
template <int E, int R>
__device__ void multiply_by_rows(float (&s)[R][2], const float* own, const float* others) {
#pragma unroll
  for (int r = 0; r < R; r++) s[r][0] = s[r][1] = 0;
#pragma unroll 2
  for (int e = 0; e < E; e += 4) {
    Numbers<4> a[R], b[2];
#pragma unroll
    for (int r = 0; r < R; r++) a[r] = load<4>(own + (own_row(R) + r) * kTileRow<E> + e);
#pragma unroll
    for (int c = 0; c < 2; c++) b[c] = load<4>(others + (other_row() + kSide * c) * kTileRow<E> + e);
#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
      for (int c = 0; c < 2; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) s[r][c] = fmaf(a[r][i], b[c][i], s[r][c]);
      }
    }
  }
}

// Rows of p or ds for multiply_by_columns. The lanes that read them are those of this warp that wrote them.
template <int R>
__device__ void share_scores(const float (&s)[R][2], float* scores) {
  warp_barrier();
#pragma unroll
  for (int r = 0; r < R; r++) {
#pragma unroll
    for (int c = 0; c < 2; c++) scores[(own_row(R) + r) * kScoreRow + other_row() + kSide * c] = s[r][c];
  }
  warp_barrier();
}

// sums += scores others.
template <int E, int R>
__device__ void multiply_by_columns(float (&sums)[R][E / kSide], const float* scores, const float* others) {
#pragma unroll 2
  for (int other = 0; other < kOthers; other += 4) {
    Numbers<4> a[R];
#pragma unroll
    for (int r = 0; r < R; r++) a[r] = load<4>(scores + (own_row(R) + r) * kScoreRow + other);
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int e = 0; e < E / kSide; e++) {
        const float b = others[(other + i) * kTileRow<E> + other_row() + kSide * e];
#pragma unroll
        for (int r = 0; r < R; r++) sums[r][e] = fmaf(a[r][i], b, sums[r][e]);
      }
    }
  }
}

// Sums of the own rows times a factor for each become rows of a head.
template <int E, int R>
__device__ void store_rows(const AttentionShape& shape, const float (&sums)[R][E / kSide], const float (&factors)[R],
                           const NumbersInMemory& numbers, int64_t head, int64_t stride, int64_t first) {
#pragma unroll
  for (int r = 0; r < R; r++) {
    const int64_t row = first + own_row(R) + r;
    if (row >= shape.tokens) continue;
#pragma unroll
    for (int e = 0; e < E / kSide; e++) {
      const int column = other_row() + kSide * e;
      if (column < shape.width) numbers.write(head + row * stride + column, sums[r][e] * factors[r]);
    }
  }
}

// Scores of keys beyond the last one shall become p = 0.
template <int R>
__device__ void close_rows(float (&s)[R][2], float scale, int64_t keys_left) {
#pragma unroll
  for (int c = 0; c < 2; c++) {
    if (other_row() + kSide * c < keys_left) continue;
#pragma unroll
    for (int r = 0; r < R; r++) s[r][c] = score_beyond(scale);
  }
}

template <int R>
__device__ void fill(float (&numbers)[R], float value) {
#pragma unroll
  for (int r = 0; r < R; r++) numbers[r] = value;
}

// A block owns 16 R queries of a head; keys and values follow each other through one tile.
template <int E, int R>
__global__ void __launch_bounds__(kThreads, E <= 96 ? 2 : 1)
    attention_forward(const AttentionShape shape, const NumbersInMemory qkv, const NumbersInMemory out, float* lse,
                      int64_t blocks_of_head) {
  SharedMemory shared;
  float* queries = shared.take<float>(kSide * R * kTileRow<E>);
  float* others = shared.take<float>(kOthers * kTileRow<E>);
  float* scores = shared.take<float>(kSide * R * kScoreRow);
  const float scale = shape.scale_to_base_2();
  const int64_t d = shape.d(), stride = 3 * d;
  for (int64_t item = blockIdx.x; item < shape.all_heads() * blocks_of_head; item += gridDim.x) {
    const int64_t head = item / blocks_of_head, first = item % blocks_of_head * (kSide * R), q = shape.at(head, 3);
    load_tile<E>(shape, qkv, q, stride, first, kSide * R, queries);
    float top[R], sum[R], sums[R][E / kSide] = {};
    fill(top, -INFINITY);
    fill(sum, 0);
    for (int64_t begin = 0; begin < shape.tokens; begin += kOthers) {
      load_tile<E>(shape, qkv, q + d, stride, begin, kOthers, others);
      __syncthreads();
      float p[R][2];
      multiply_by_rows<E>(p, queries, others);
      close_rows(p, scale, shape.tokens - begin);
#pragma unroll
      for (int r = 0; r < R; r++) {
        const float peak = warp_max<kSide>(fmaxf(top[r], fmaxf(p[r][0] * scale, p[r][1] * scale)));
        const float correction = exp2f(top[r] - peak);
        top[r] = peak, sum[r] *= correction;
#pragma unroll
        for (int c = 0; c < 2; c++) sum[r] += p[r][c] = exp2f(fmaf(p[r][c], scale, -peak));
#pragma unroll
        for (int e = 0; e < E / kSide; e++) sums[r][e] *= correction;
      }
      share_scores(p, scores);
      __syncthreads();
      load_tile<E>(shape, qkv, q + 2 * d, stride, begin, kOthers, others);
      __syncthreads();
      multiply_by_columns<E>(sums, scores, others);
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
      sum[r] = warp_sum<kSide>(sum[r]);
      const int64_t query = first + own_row(R) + r;
      if (lse && other_row() == 0 && query < shape.tokens) lse[head * shape.tokens + query] = (top[r] + log2f(sum[r])) * kLn2;
      sum[r] = 1.0f / sum[r];
    }
    store_rows<E>(shape, sums, sum, out, shape.at(head, 1), d, first);
  }
}

// A block owns 16 R queries of a head with their gradients. Tiles pass by twice: first for the rows' statistics, which go to
// memory for backward by keys, too, then for ds and gradQ.
template <int E, int R>
__global__ void __launch_bounds__(kThreads, E <= 64 ? 2 : 1)
    attention_backward_queries(const AttentionShape shape, const NumbersInMemory grad_out, const NumbersInMemory qkv,
                               const float* lse, const NumbersInMemory grad_qkv, RowStatistics* statistics,
                               int64_t blocks_of_head) {
  SharedMemory shared;
  float* queries = shared.take<float>(kSide * R * kTileRow<E>);
  float* grads = shared.take<float>(kSide * R * kTileRow<E>);
  float* others = shared.take<float>(kOthers * kTileRow<E>);
  float* scores = shared.take<float>(kSide * R * kScoreRow);
  const float scale = shape.scale_to_base_2();
  const int64_t d = shape.d(), stride = 3 * d;
  for (int64_t item = blockIdx.x; item < shape.all_heads() * blocks_of_head; item += gridDim.x) {
    const int64_t head = item / blocks_of_head, first = item % blocks_of_head * (kSide * R), q = shape.at(head, 3);
    load_tile<E>(shape, qkv, q, stride, first, kSide * R, queries);
    load_tile<E>(shape, grad_out, shape.at(head, 1), d, first, kSide * R, grads);
    const int64_t query = first + own_row(R);
    float row_lse[R], factor[R], mean_dp[R], sums[R][E / kSide] = {};
#pragma unroll
    for (int r = 0; r < R; r++) row_lse[r] = query + r < shape.tokens ? lse[head * shape.tokens + query + r] * kLog2e : 0;
    fill(factor, 0);
    fill(mean_dp, 0);
#pragma unroll 1
    for (int pass = 0; pass < 2; pass++) {
      for (int64_t begin = 0; begin < shape.tokens; begin += kOthers) {
        load_tile<E>(shape, qkv, q + 2 * d, stride, begin, kOthers, others);
        __syncthreads();
        float dp[R][2], p[R][2];
        multiply_by_rows<E>(dp, grads, others);
        __syncthreads();
        load_tile<E>(shape, qkv, q + d, stride, begin, kOthers, others);
        __syncthreads();
        multiply_by_rows<E>(p, queries, others);
        close_rows(p, scale, shape.tokens - begin);
#pragma unroll
        for (int r = 0; r < R; r++) {
#pragma unroll
          for (int c = 0; c < 2; c++) {
            p[r][c] = exp2f(fmaf(p[r][c], scale, -row_lse[r]));
            if (pass == 0)
              factor[r] += p[r][c], mean_dp[r] = fmaf(p[r][c], dp[r][c], mean_dp[r]);
            else
              p[r][c] *= factor[r] * (dp[r][c] - mean_dp[r]);
          }
        }
        if (pass > 0) {
          share_scores(p, scores);
          multiply_by_columns<E>(sums, scores, others);
        }
        __syncthreads();
      }
      if (pass > 0) break;
#pragma unroll
      for (int r = 0; r < R; r++) {
        factor[r] = 1.0f / warp_sum<kSide>(factor[r]);
        mean_dp[r] = warp_sum<kSide>(mean_dp[r]) * factor[r];
        if (other_row() == 0 && query + r < shape.tokens)
          statistics[head * shape.tokens + query + r] = make_float4(row_lse[r], factor[r], mean_dp[r], 0);
      }
    }
    fill(factor, shape.scale);
    store_rows<E>(shape, sums, factor, grad_qkv, q, stride, first);
  }
}

// A block owns 16 R keys of a head with their values; scores are transposed here. Queries, their gradients and queries again
// follow each other through one tile.
template <int E, int R>
__global__ void __launch_bounds__(kThreads, E <= 32 ? 2 : 1)
    attention_backward_keys(const AttentionShape shape, const NumbersInMemory grad_out, const NumbersInMemory qkv,
                            const RowStatistics* statistics, const NumbersInMemory grad_qkv, int64_t blocks_of_head) {
  SharedMemory shared;
  float* keys = shared.take<float>(kSide * R * kTileRow<E>);
  float* values = shared.take<float>(kSide * R * kTileRow<E>);
  float* others = shared.take<float>(kOthers * kTileRow<E>);
  float* scores = shared.take<float>(kSide * R * kScoreRow);
  const float scale = shape.scale_to_base_2();
  const int64_t d = shape.d(), stride = 3 * d;
  for (int64_t item = blockIdx.x; item < shape.all_heads() * blocks_of_head; item += gridDim.x) {
    const int64_t head = item / blocks_of_head, first = item % blocks_of_head * (kSide * R), q = shape.at(head, 3);
    load_tile<E>(shape, qkv, q + d, stride, first, kSide * R, keys);
    load_tile<E>(shape, qkv, q + 2 * d, stride, first, kSide * R, values);
    float grad_k[R][E / kSide] = {}, grad_v[R][E / kSide] = {};
    for (int64_t begin = 0; begin < shape.tokens; begin += kOthers) {
      RowStatistics rows[2];
#pragma unroll
      for (int c = 0; c < 2; c++) {
        const int64_t query = begin + other_row() + kSide * c;
        rows[c] = query < shape.tokens ? statistics[head * shape.tokens + query] : make_float4(0, 0, 0, 0);
      }
      load_tile<E>(shape, qkv, q, stride, begin, kOthers, others);
      __syncthreads();
      float p[R][2], ds[R][2];
      multiply_by_rows<E>(p, keys, others);
#pragma unroll
      for (int r = 0; r < R; r++) {
#pragma unroll
        for (int c = 0; c < 2; c++) p[r][c] = exp2f(fmaf(p[r][c], scale, -rows[c].x)) * rows[c].y;
      }
      share_scores(p, scores);
      __syncthreads();
      load_tile<E>(shape, grad_out, shape.at(head, 1), d, begin, kOthers, others);
      __syncthreads();
      multiply_by_columns<E>(grad_v, scores, others);
      multiply_by_rows<E>(ds, values, others);
#pragma unroll
      for (int r = 0; r < R; r++) {
#pragma unroll
        for (int c = 0; c < 2; c++) ds[r][c] = p[r][c] * (ds[r][c] - rows[c].z);
      }
      share_scores(ds, scores);
      __syncthreads();
      load_tile<E>(shape, qkv, q, stride, begin, kOthers, others);
      __syncthreads();
      multiply_by_columns<E>(grad_k, scores, others);
      __syncthreads();
    }
    float factors[R];
    fill(factors, shape.scale);
    store_rows<E>(shape, grad_k, factors, grad_qkv, q + d, stride, first);
    fill(factors, 1);
    store_rows<E>(shape, grad_v, factors, grad_qkv, q + 2 * d, stride, first);
  }
}

// Shared memory of a block that owns `tiles` tiles of 16 R rows.
template <int E, int R>
constexpr int64_t bytes_of_block(int tiles) {
  return tiles * shared_bytes<float>(kSide * R * kTileRow<E>) + shared_bytes<float>(kOthers * kTileRow<E>) +
         shared_bytes<float>(kSide * R * kScoreRow);
}

// body(Width<E>{}, Width<R>{}): four rows a thread where their tiles fit the device, else one, which fits any.
template <class Body>
void dispatch_tiles(const Properties& properties, int64_t width, int tiles, const Body& body) {
  dispatch_head(width, [&](auto head) {
    constexpr int E = decltype(head)::value;
    static_assert(bytes_of_block<E, 1>(2) <= 48 << 10, "fits any device");
    bytes_of_block<E, 4>(tiles) <= properties.most_shared_bytes ? body(Width<E>{}, Width<4>{}) : body(Width<E>{}, Width<1>{});
  });
}

template <int E, int R>
Grid grid_of(const Properties& properties, const AttentionShape& shape, int64_t blocks_of_head, int tiles) {
  return {blocks_for(properties, shape.all_heads() * blocks_of_head, 1), kThreads, bytes_of_block<E, R>(tiles)};
}

NumbersInMemory numbers_of(const Tensor& tensor) { return {tensor.data, tensor.dtype == DType::bf16}; }

}  // namespace

void run_in_f32(Cuda& cuda, const attention::Forward& k) {
  const AttentionShape shape(k.qkv, k.heads, k.scale);
  dispatch_tiles(cuda.properties, shape.width, 1, [&](auto width, auto rows) {
    constexpr int E = decltype(width)::value, R = decltype(rows)::value;
    const int64_t blocks_of_head = divide_up(shape.tokens, kSide * R);
    launch(cuda, attention_forward<E, R>, grid_of<E, R>(cuda.properties, shape, blocks_of_head, 1), shape, numbers_of(k.qkv),
           numbers_of(k.out), k.lse.as<float>(), blocks_of_head);
  });
}

void run_in_f32(Cuda& cuda, const attention::Backward& k, RowStatistics* statistics) {
  const AttentionShape shape(k.qkv, k.heads, k.scale);
  dispatch_tiles(cuda.properties, shape.width, 2, [&](auto width, auto rows) {
    constexpr int E = decltype(width)::value, R = decltype(rows)::value;
    const int64_t blocks_of_head = divide_up(shape.tokens, kSide * R);
    const Grid grid = grid_of<E, R>(cuda.properties, shape, blocks_of_head, 2);
    launch(cuda, attention_backward_queries<E, R>, grid, shape, numbers_of(k.grad_out), numbers_of(k.qkv),
           k.lse.as<const float>(), numbers_of(k.grad_qkv), statistics, blocks_of_head);
    launch(cuda, attention_backward_keys<E, R>, grid, shape, numbers_of(k.grad_out), numbers_of(k.qkv), statistics,
           numbers_of(k.grad_qkv), blocks_of_head);
  });
}

}  // namespace sidetune::cuda
