#include "../mlp.h"

#include "gemm.cuh"

namespace sidetune::cuda {

// Of the linear and pool families.
void run(Cuda& cuda, const LinearForward& k, Workspace scratch);
void run(Cuda& cuda, const LinearBackward& k, Workspace scratch);
void run(Cuda& cuda, const PoolForward& k, Workspace scratch);
void run(Cuda& cuda, const PoolBackward& k, Workspace scratch);
int64_t workspace(Cuda& cuda, const LinearForward& k);
int64_t workspace(Cuda& cuda, const LinearBackward& k);

namespace {

// A step's hidden numbers stay in the L2 cache between the two products.
template <class Step, class Arguments>
int64_t step_of(const Arguments& k) {
  const Tensor& rows = Step::rows(k);
  return step_rows(rows.rows(), k.weight1.dim(0) * size_of(rows.dtype));
}

template <class Step, class Arguments>
void run_steps(Cuda& cuda, const Arguments& k, Workspace scratch) {
  mlp::run_steps<Step>(k, step_of<Step>(k), scratch, [&](const auto& call, Workspace rest) { run(cuda, call, rest); });
}
template <class Step, class Arguments>
int64_t steps_workspace(Cuda& cuda, const Arguments& k) {
  return mlp::steps_workspace<Step>(k, step_of<Step>(k), [&](const auto& call) { return workspace(cuda, call); });
}

// Whole images of about as many rows.
template <class Step, class Arguments>
int64_t images_of(const Arguments& k) {
  const Tensor& tokens = Step::tokens(k);
  const int64_t rows = step_rows(tokens.rows(), k.weight1.dim(0) * size_of(tokens.dtype));
  return std::min(tokens.dim(0), std::max<int64_t>(1, rows / std::max<int64_t>(1, tokens.dim(1))));
}

template <class Step, class Arguments>
void run_mean_steps(Cuda& cuda, const Arguments& k, Workspace scratch) {
  mlp::run_mean_steps<Step>(k, images_of<Step>(k), scratch, [&](const auto& call, Workspace rest) { run(cuda, call, rest); });
}
template <class Step, class Arguments>
int64_t mean_steps_workspace(Cuda& cuda, const Arguments& k) {
  return mlp::mean_steps_workspace<Step>(k, images_of<Step>(k), [&](const auto& call) { return workspace(cuda, call); });
}

}  // namespace

void run(Cuda& cuda, const MlpForward& k, Workspace scratch) { run_steps<MlpForwardStep>(cuda, k, scratch); }
void run(Cuda& cuda, const MlpBackward& k, Workspace scratch) { run_steps<MlpBackwardStep>(cuda, k, scratch); }

int64_t workspace(Cuda& cuda, const MlpForward& k) { return steps_workspace<MlpForwardStep>(cuda, k); }
int64_t workspace(Cuda& cuda, const MlpBackward& k) { return steps_workspace<MlpBackwardStep>(cuda, k); }

void run(Cuda& cuda, const MlpMeanForward& k, Workspace scratch) { run_mean_steps<MlpMeanForwardStep>(cuda, k, scratch); }
void run(Cuda& cuda, const MlpMeanBackward& k, Workspace scratch) { run_mean_steps<MlpMeanBackwardStep>(cuda, k, scratch); }

int64_t workspace(Cuda& cuda, const MlpMeanForward& k) { return mean_steps_workspace<MlpMeanForwardStep>(cuda, k); }
int64_t workspace(Cuda& cuda, const MlpMeanBackward& k) { return mean_steps_workspace<MlpMeanBackwardStep>(cuda, k); }

SIDETUNE_CUDA_KERNEL(MlpForward)
SIDETUNE_CUDA_KERNEL(MlpBackward)
SIDETUNE_CUDA_KERNEL(MlpMeanForward)
SIDETUNE_CUDA_KERNEL(MlpMeanBackward)

}  // namespace sidetune::cuda
