#include "../mlp.h"

#include "gemm.cuh"

namespace sidetune::cuda {

// Of the linear family.
void run(Cuda& cuda, const LinearForward& k, Workspace scratch);
void run(Cuda& cuda, const LinearBackward& k, Workspace scratch);
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

}  // namespace

void run(Cuda& cuda, const MlpForward& k, Workspace scratch) { run_steps<MlpForwardStep>(cuda, k, scratch); }
void run(Cuda& cuda, const MlpBackward& k, Workspace scratch) { run_steps<MlpBackwardStep>(cuda, k, scratch); }

int64_t workspace(Cuda& cuda, const MlpForward& k) { return steps_workspace<MlpForwardStep>(cuda, k); }
int64_t workspace(Cuda& cuda, const MlpBackward& k) { return steps_workspace<MlpBackwardStep>(cuda, k); }

SIDETUNE_CUDA_KERNEL(MlpForward)
SIDETUNE_CUDA_KERNEL(MlpBackward)

}  // namespace sidetune::cuda
