// Attention as products of whole heads. A tile of heads has its N×N numbers in scratch memory: f32 scores, which softmax turns
// into p in place, in bf16 into the first half of the row. Heads of one image lie E numbers apart and images N rows, so a batch
// is the heads of an image or a head of several images, whichever makes fewer calls.
#include <cmath>

#include "attention.cuh"
#include "gemm.cuh"
#include "shared.cuh"
#include "warp.cuh"

namespace sidetune::cuda {
namespace {

constexpr int64_t kMostScratchBytes = 64 << 20;
constexpr int64_t kMostBatch = 32768;

// Heads of a tile: all of several images, or some of one.
struct BatchedPlan {
  int64_t row;  // numbers from one row of scores to the next, a multiple of 16 bytes in bf16, too
  int64_t images, heads;

  BatchedPlan(const AttentionShape& shape, int matrices) : row(divide_up(shape.tokens, 8) * 8) {
    const int64_t bytes = matrix_size(shape) * matrices * static_cast<int64_t>(sizeof(float));
    const int64_t fit = std::min(std::max<int64_t>(kMostScratchBytes / bytes, 1), kMostBatch);
    images = std::min(std::max<int64_t>(fit / shape.heads, 1), shape.images);
    heads = std::min(fit, shape.heads);
  }
  int64_t matrix_size(const AttentionShape& shape) const { return shape.tokens * row; }
  int64_t size(const AttentionShape& shape) const { return images * heads * matrix_size(shape); }
};

// A tile: `heads` heads from `head` on of `images` images from `image` on. The last ones may have fewer.
struct HeadTile {
  int64_t image, images, head, heads;
};
template <class Body>
void for_each_tile(const AttentionShape& shape, const BatchedPlan& plan, const Body& body) {
  for (int64_t image = 0; image < shape.images; image += plan.images) {
    for (int64_t head = 0; head < shape.heads; head += plan.heads)
      body(HeadTile{image, std::min(plan.images, shape.images - image), head, std::min(plan.heads, shape.heads - head)});
  }
}

// One matrix for each head: a part of a tensor of [B, N, parts · d], or of the tile's scratch memory.
struct HeadMatrices {
  char* data;
  DType dtype;
  int64_t leading, image_stride, head_stride;

  char* at(int64_t image, int64_t head) const { return data + (image * image_stride + head * head_stride) * size_of(dtype); }
};

HeadMatrices part_of(const AttentionShape& shape, const HeadTile& tile, const Tensor& tensor, int parts, int part) {
  const int64_t leading = parts * shape.d(), image_stride = shape.tokens * leading;
  const HeadMatrices all{static_cast<char*>(tensor.data), tensor.dtype, leading, image_stride, shape.width};
  return {all.at(tile.image, tile.head) + part * shape.d() * size_of(tensor.dtype), tensor.dtype, leading, image_stride,
          shape.width};
}

// Scores, or what came out of them in place: rows keep their distance in bytes.
HeadMatrices scores_of(const AttentionShape& shape, const BatchedPlan& plan, const HeadTile& tile, float* scores, DType dtype) {
  const int64_t leading = plan.row * static_cast<int64_t>(sizeof(float)) / size_of(dtype), matrix = shape.tokens * leading;
  return {reinterpret_cast<char*>(scores), dtype, leading, tile.heads * matrix, matrix};
}

// out = scale · a b for each head of the tile. `wanted` has rows, columns, inner, scale, and which operands are transposed.
void multiply_heads(Cuda& cuda, const HeadTile& tile, const HeadMatrices& a, const HeadMatrices& b, const HeadMatrices& out,
                    const Product& wanted, Workspace scratch) {
  const bool by_head = tile.heads < tile.images;  // a call for each head, with a batch of images
  const int64_t calls = by_head ? tile.heads : tile.images;
  for (int64_t call = 0; call < calls; call++) {
    const int64_t image = by_head ? 0 : call, head = by_head ? call : 0;
    Product p = wanted;
    p.dtype = a.dtype;
    p.a = {a.at(image, head), a.leading, wanted.a.transposed, by_head ? a.image_stride : a.head_stride};
    p.b = {b.at(image, head), b.leading, wanted.b.transposed, by_head ? b.image_stride : b.head_stride};
    p.out = out.at(image, head);
    p.out_dtype = out.dtype;
    p.out_leading = out.leading;
    p.out_stride = by_head ? out.image_stride : out.head_stride;
    p.batch = by_head ? tile.images : tile.heads;
    multiply(cuda, p, scratch);
  }
}

Product product(int64_t rows, int64_t columns, int64_t inner, bool a_transposed, bool b_transposed, float scale = 1) {
  Product p = {};
  p.rows = rows, p.columns = columns, p.inner = inner, p.scale = scale;
  p.a.transposed = a_transposed, p.b.transposed = b_transposed;
  return p;
}

// Four scores of a row from `column` on; those beyond the last one shall become p = 0.
__device__ Numbers<4> read_scores(const float* row, int64_t column, int64_t tokens, float scale) {
  if (column + 4 <= tokens) return load<4>(row + column);
  Numbers<4> four;
#pragma unroll
  for (int i = 0; i < 4; i++) four[i] = column + i < tokens ? row[column + i] : score_beyond(scale);
  return four;
}

constexpr int kColumnsOfWarp = 4 * kWarp;

// A warp owns a row of scores, which becomes p. The row is read once from memory: `cached` rows lie in shared memory for the
// second and third look, where a lane reads back what it wrote itself. Results are written over the row by all lanes together,
// when all have read so far.
template <class T>
__global__ void softmax_rows(float* scores, float* lse, int64_t rows, int64_t tokens, int64_t row_size, float scale,
                             bool cached) {
  SharedMemory shared;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  float* cache = cached ? shared.take<float>(warps * row_size) + warp() * row_size : nullptr;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp(); row < rows;
       row += static_cast<int64_t>(gridDim.x) * warps) {
    float* from = scores + row * row_size;
    const auto at = [&](int64_t column) { return cache ? load<4>(cache + column) : read_scores(from, column, tokens, scale); };
    float top = -INFINITY;
    for (int64_t column = lane() * 4; column < tokens; column += kColumnsOfWarp) {
      const Numbers<4> s = read_scores(from, column, tokens, scale);
#pragma unroll
      for (int i = 0; i < 4; i++) top = fmaxf(top, s[i] * scale);
      if (cache) store(cache + column, s);
    }
    top = warp_max(top);
    float sum = 0;
    for (int64_t column = lane() * 4; column < tokens; column += kColumnsOfWarp) {
      const Numbers<4> s = at(column);
#pragma unroll
      for (int i = 0; i < 4; i++) sum += exp2f(fmaf(s[i], scale, -top));
    }
    sum = warp_sum(sum);
    const float factor = 1.0f / sum;
    T* to = reinterpret_cast<T*>(from);
    for (int64_t begin = 0; begin < tokens; begin += kColumnsOfWarp) {
      const int64_t column = begin + lane() * 4;
      Numbers<4> p = {};
      if (column < tokens) p = at(column);
      warp_barrier();
#pragma unroll
      for (int i = 0; i < 4; i++) p[i] = exp2f(fmaf(p[i], scale, -top)) * factor;
      if (column < tokens) store(to + column, p);
    }
    if (lse && lane() == 0) lse[row] = (top + log2f(sum)) * kLn2;
  }
}

// A warp owns a row of scores and its dp: they become p and ds, as in softmax_rows.
template <class T>
__global__ void softmax_gradient_rows(float* scores, float* grads, const float* lse, int64_t rows, int64_t tokens,
                                      int64_t row_size, float scale, bool cached) {
  SharedMemory shared;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  float* p_cache = cached ? shared.take<float>(warps * row_size) + warp() * row_size : nullptr;
  float* dp_cache = cached ? shared.take<float>(warps * row_size) + warp() * row_size : nullptr;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + warp(); row < rows;
       row += static_cast<int64_t>(gridDim.x) * warps) {
    float *p_row = scores + row * row_size, *dp_row = grads + row * row_size;
    const float row_lse = lse[row] * kLog2e;
    const auto read_p = [&](int64_t column) {
      Numbers<4> p = read_scores(p_row, column, tokens, scale);
#pragma unroll
      for (int i = 0; i < 4; i++) p[i] = exp2f(fmaf(p[i], scale, -row_lse));
      return p;
    };
    const auto read_dp = [&](int64_t column) {
      if (column + 4 <= tokens) return load<4>(dp_row + column);
      Numbers<4> dp = {};
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (column + i < tokens) dp[i] = dp_row[column + i];
      return dp;
    };
    float sum = 0, sum_dp = 0;
    for (int64_t column = lane() * 4; column < tokens; column += kColumnsOfWarp) {
      const Numbers<4> p = read_p(column), dp = read_dp(column);
#pragma unroll
      for (int i = 0; i < 4; i++) sum += p[i], sum_dp = fmaf(p[i], dp[i], sum_dp);
      if (cached) store(p_cache + column, p), store(dp_cache + column, dp);
    }
    const float factor = 1.0f / warp_sum(sum), mean_dp = warp_sum(sum_dp) * factor;
    T *p_out = reinterpret_cast<T*>(p_row), *ds_out = reinterpret_cast<T*>(dp_row);
    for (int64_t begin = 0; begin < tokens; begin += kColumnsOfWarp) {
      const int64_t column = begin + lane() * 4;
      Numbers<4> p = {}, ds = {};
      if (column < tokens) {
        p = cached ? load<4>(p_cache + column) : read_p(column);
        ds = cached ? load<4>(dp_cache + column) : read_dp(column);
      }
      warp_barrier();
#pragma unroll
      for (int i = 0; i < 4; i++) p[i] *= factor, ds[i] = p[i] * (ds[i] - mean_dp);
      if (column < tokens) store(p_out + column, p), store(ds_out + column, ds);
    }
  }
}

// Eight rows a block, fewer where `rows_of_warp` rows of f32 numbers for each warp are long; not cached where one does not fit.
struct RowsPlan {
  bool cached;
  Grid grid;

  RowsPlan(const Properties& properties, int64_t rows, int64_t row_size, int rows_of_warp) {
    const int64_t bytes = rows_of_warp * shared_bytes<float>(row_size), fit = properties.shared_bytes / bytes;
    cached = fit > 0;
    const int64_t warps = cached ? std::min<int64_t>(fit, 8) : 8;
    grid = {blocks_for(properties, rows, warps), static_cast<int>(warps) * kWarp, cached ? warps * bytes : 0};
  }
};

// Scratch memory of `matrices` scores of a tile, and of any product of its heads.
int64_t workspace_of(const Cuda& cuda, const Tensor& qkv, const AttentionShape& shape, int matrices) {
  const BatchedPlan plan(shape, matrices);
  Product to_scores = product(shape.tokens, shape.tokens, shape.width, false, true);
  Product from_scores = product(shape.tokens, shape.width, shape.tokens, false, false);
  to_scores.dtype = from_scores.dtype = from_scores.out_dtype = qkv.dtype;
  to_scores.out_dtype = DType::f32;
  to_scores.batch = from_scores.batch = std::max(plan.images, plan.heads);
  return matrices * Workspace::aligned<float>(plan.size(shape)) +
         std::max(product_scratch(cuda, to_scores), product_scratch(cuda, from_scores));
}

}  // namespace

int64_t batched_workspace(const Cuda& cuda, const attention::Forward& k) {
  return workspace_of(cuda, k.qkv, AttentionShape(k.qkv, k.heads, k.scale), 1);
}

void run_batched(Cuda& cuda, const attention::Forward& k, Workspace scratch) {
  const AttentionShape shape(k.qkv, k.heads, k.scale);
  const BatchedPlan plan(shape, 1);
  const int64_t N = shape.tokens, E = shape.width;
  float* scores = scratch.take<float>(plan.size(shape));
  for_each_tile(shape, plan, [&](const HeadTile& tile) {
    const auto part = [&](int part) { return part_of(shape, tile, k.qkv, 3, part); };
    const int64_t rows = tile.images * tile.heads * N, first = (tile.image * shape.heads + tile.head) * N;
    multiply_heads(cuda, tile, part(0), part(1), scores_of(shape, plan, tile, scores, DType::f32), product(N, N, E, false, true),
                   scratch);
    const RowsPlan softmax(cuda.properties, rows, plan.row, 1);
    dispatch(k.qkv.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      launch(cuda, softmax_rows<T>, softmax.grid, scores, k.lse ? k.lse.as<float>() + first : nullptr, rows, N, plan.row,
             shape.scale_to_base_2(), softmax.cached);
    });
    multiply_heads(cuda, tile, scores_of(shape, plan, tile, scores, k.qkv.dtype), part(2), part_of(shape, tile, k.out, 1, 0),
                   product(N, E, N, false, false), scratch);
  });
}

int64_t batched_workspace(const Cuda& cuda, const attention::Backward& k) {
  return workspace_of(cuda, k.qkv, AttentionShape(k.qkv, k.heads, k.scale), 2);
}

void run_batched(Cuda& cuda, const attention::Backward& k, Workspace scratch) {
  const AttentionShape shape(k.qkv, k.heads, k.scale);
  const BatchedPlan plan(shape, 2);
  const int64_t N = shape.tokens, E = shape.width;
  float* scores = scratch.take<float>(plan.size(shape));
  float* score_grads = scratch.take<float>(plan.size(shape));
  for_each_tile(shape, plan, [&](const HeadTile& tile) {
    const auto part = [&](int part) { return part_of(shape, tile, k.qkv, 3, part); };
    const auto grad_part = [&](int part) { return part_of(shape, tile, k.grad_qkv, 3, part); };
    const HeadMatrices grad_out = part_of(shape, tile, k.grad_out, 1, 0);
    const int64_t rows = tile.images * tile.heads * N, first = (tile.image * shape.heads + tile.head) * N;
    multiply_heads(cuda, tile, part(0), part(1), scores_of(shape, plan, tile, scores, DType::f32), product(N, N, E, false, true),
                   scratch);
    multiply_heads(cuda, tile, grad_out, part(2), scores_of(shape, plan, tile, score_grads, DType::f32),
                   product(N, N, E, false, true), scratch);
    const RowsPlan softmax(cuda.properties, rows, plan.row, 2);
    dispatch(k.qkv.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      launch(cuda, softmax_gradient_rows<T>, softmax.grid, scores, score_grads, k.lse.as<const float>() + first, rows, N,
             plan.row, shape.scale_to_base_2(), softmax.cached);
    });
    const HeadMatrices p = scores_of(shape, plan, tile, scores, k.qkv.dtype);
    const HeadMatrices ds = scores_of(shape, plan, tile, score_grads, k.qkv.dtype);
    multiply_heads(cuda, tile, ds, part(1), grad_part(0), product(N, E, N, false, false, shape.scale), scratch);
    multiply_heads(cuda, tile, ds, part(0), grad_part(1), product(N, E, N, true, false, shape.scale), scratch);
    multiply_heads(cuda, tile, p, grad_out, grad_part(2), product(N, E, N, true, false), scratch);
  });
}

}  // namespace sidetune::cuda
