#include "attention.cuh"

#include <cmath>

namespace sidetune::cuda {
namespace {

enum class Way { batched, tensor_cores, f32 };

template <class Arguments>
Way way_of(const Cuda& cuda, const Arguments& k) {
  const AttentionShape shape(k.qkv, k.heads, k.scale);
  if (k.algorithm == AttentionAlgorithm::batched || shape.width > kWidestHead) return Way::batched;
  return k.qkv.dtype == DType::bf16 && cuda.properties.has_bf16() ? Way::tensor_cores : Way::f32;
}

}  // namespace

AttentionShape::AttentionShape(const Tensor& qkv, int64_t heads, float scale)
    : images(qkv.dim(0)),
      tokens(qkv.dim(1)),
      heads(heads),
      width(qkv.dim(2) / (3 * heads)),
      scale(scale != 0 ? scale : 1.0f / std::sqrt(static_cast<float>(width))) {}

int64_t workspace(Cuda& cuda, const AttentionForward& k) {
  return way_of(cuda, k) == Way::batched ? batched_workspace(cuda, k) : 0;
}

void run(Cuda& cuda, const AttentionForward& k, Workspace scratch) {
  switch (way_of(cuda, k)) {
    case Way::batched:
      return run_batched(cuda, k, scratch);
    case Way::tensor_cores:
      return run_on_tensor_cores(cuda, k);
    case Way::f32:
      return run_in_f32(cuda, k);
  }
}

int64_t workspace(Cuda& cuda, const AttentionBackward& k) {
  return way_of(cuda, k) == Way::batched ? batched_workspace(cuda, k) : Workspace::aligned<RowStatistics>(k.lse.size());
}

void run(Cuda& cuda, const AttentionBackward& k, Workspace scratch) {
  switch (way_of(cuda, k)) {
    case Way::batched:
      return run_batched(cuda, k, scratch);
    case Way::tensor_cores:
      return run_on_tensor_cores(cuda, k, scratch.take<RowStatistics>(k.lse.size()));
    case Way::f32:
      return run_in_f32(cuda, k, scratch.take<RowStatistics>(k.lse.size()));
  }
}

SIDETUNE_CUDA_KERNEL(AttentionForward)
SIDETUNE_CUDA_KERNEL(AttentionBackward)

}  // namespace sidetune::cuda
