// What the kernels of attention share: where a head lies, and which ways there are to compute it.
#pragma once

#include "../attention.h"
#include "launch.cuh"
#include "vector.cuh"

namespace sidetune::cuda {

constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

// B images of N tokens, H heads of E numbers, d = H E. Heads are counted through all images.
struct AttentionShape {
  int64_t images, tokens, heads, width;
  float scale;

  AttentionShape(const Tensor& qkv, int64_t heads, float scale);

  __host__ __device__ int64_t d() const { return heads * width; }
  __host__ __device__ int64_t all_heads() const { return images * heads; }
  // A head's first number in a tensor of [B, N, parts · d].
  __host__ __device__ int64_t at(int64_t head, int parts) const {
    return head / heads * tokens * parts * d() + head % heads * width;
  }
  // Softmax works to base 2.
  __host__ __device__ float scale_to_base_2() const { return scale * kLog2e; }
};

// What a row of queries needs in backward beside its numbers: lse to base 2, one over the sum of its p, D. A row of zeros has p =
// 0.
using RowStatistics = float4;

// A score that becomes p = 0.
__device__ inline float score_beyond(float scale) { return scale < 0 ? INFINITY : -INFINITY; }

// The kernels' arguments, as the files of this family call them.
namespace attention {
using Forward = AttentionForward;
using Backward = AttentionBackward;
}  // namespace attention

// Products of whole heads by cuBLASLt.
int64_t batched_workspace(const Cuda& cuda, const attention::Forward& k);
int64_t batched_workspace(const Cuda& cuda, const attention::Backward& k);
void run_batched(Cuda& cuda, const attention::Forward& k, Workspace scratch);
void run_batched(Cuda& cuda, const attention::Backward& k, Workspace scratch);

// Tiles on tensor cores, for bf16. `statistics` is a row for each head and token.
void run_on_tensor_cores(Cuda& cuda, const attention::Forward& k);
void run_on_tensor_cores(Cuda& cuda, const attention::Backward& k, RowStatistics* statistics);

// Tiles in f32, for f32 and, where tensor cores do not take it, bf16.
void run_in_f32(Cuda& cuda, const attention::Forward& k);
void run_in_f32(Cuda& cuda, const attention::Backward& k, RowStatistics* statistics);

// Heads wider than this are not tiled.
constexpr int64_t kWidestHead = 128;

// body(Width<E>{}) with the least E ≥ width of those that kernels are made for; a head is filled up with zeros.
template <class Body>
void dispatch_head(int64_t width, const Body& body) {
  if (width <= 32) return body(Width<32>{});
  if (width <= 64) return body(Width<64>{});
  if (width <= 80) return body(Width<80>{});
  if (width <= 96) return body(Width<96>{});
  body(Width<128>{});
}

}  // namespace sidetune::cuda
