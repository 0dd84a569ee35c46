#include "../mlp.h"

#include <algorithm>

#include "gemm.h"

namespace sidetune::cpu {

// Of the linear and pool families.
void run(Cpu& cpu, const LinearForward& k, Workspace scratch);
void run(Cpu& cpu, const LinearBackward& k, Workspace scratch);
void run(Cpu& cpu, const PoolForward& k, Workspace scratch);
void run(Cpu& cpu, const PoolBackward& k, Workspace scratch);
int64_t workspace(Cpu& cpu, const LinearForward& k);
int64_t workspace(Cpu& cpu, const LinearBackward& k);

namespace {

// Rows whose hidden numbers are there at a time: enough for the products to run at full speed, few enough for the cache that
// cores share (6 MB of bf16 at ViT-B/16).
constexpr int64_t kMlpRows = 1024;

// [0, rows) in equal steps of whole tiles.
int64_t step_of(int64_t rows) {
  const int64_t steps = std::max<int64_t>(1, (rows + kMlpRows - 1) / kMlpRows);
  return std::min(rows, ((rows + steps - 1) / steps + kTileRows - 1) / kTileRows * kTileRows);
}

template <class Step, class Arguments>
void run_steps(Cpu& cpu, const Arguments& k, Workspace scratch) {
  mlp::run_steps<Step>(k, step_of(Step::rows(k).rows()), scratch,
                       [&](const auto& call, Workspace rest) { run(cpu, call, rest); });
}
template <class Step, class Arguments>
int64_t steps_workspace(Cpu& cpu, const Arguments& k) {
  return mlp::steps_workspace<Step>(k, step_of(Step::rows(k).rows()), [&](const auto& call) { return workspace(cpu, call); });
}

// Whole images of about as many rows.
int64_t images_of(const Tensor& tokens) {
  const int64_t most = std::max<int64_t>(1, kMlpRows / std::max<int64_t>(1, tokens.dim(1)));
  return std::min(tokens.dim(0), most);
}

template <class Step, class Arguments>
void run_mean_steps(Cpu& cpu, const Arguments& k, Workspace scratch) {
  mlp::run_mean_steps<Step>(k, images_of(Step::tokens(k)), scratch,
                            [&](const auto& call, Workspace rest) { run(cpu, call, rest); });
}
template <class Step, class Arguments>
int64_t mean_steps_workspace(Cpu& cpu, const Arguments& k) {
  return mlp::mean_steps_workspace<Step>(k, images_of(Step::tokens(k)), [&](const auto& call) { return workspace(cpu, call); });
}

}  // namespace

void run(Cpu& cpu, const MlpForward& k, Workspace scratch) { run_steps<MlpForwardStep>(cpu, k, scratch); }
void run(Cpu& cpu, const MlpBackward& k, Workspace scratch) { run_steps<MlpBackwardStep>(cpu, k, scratch); }

int64_t workspace(Cpu& cpu, const MlpForward& k) { return steps_workspace<MlpForwardStep>(cpu, k); }
int64_t workspace(Cpu& cpu, const MlpBackward& k) { return steps_workspace<MlpBackwardStep>(cpu, k); }

void run(Cpu& cpu, const MlpMeanForward& k, Workspace scratch) { run_mean_steps<MlpMeanForwardStep>(cpu, k, scratch); }
void run(Cpu& cpu, const MlpMeanBackward& k, Workspace scratch) { run_mean_steps<MlpMeanBackwardStep>(cpu, k, scratch); }

int64_t workspace(Cpu& cpu, const MlpMeanForward& k) { return mean_steps_workspace<MlpMeanForwardStep>(cpu, k); }
int64_t workspace(Cpu& cpu, const MlpMeanBackward& k) { return mean_steps_workspace<MlpMeanBackwardStep>(cpu, k); }

SIDETUNE_CPU_KERNEL(MlpForward)
SIDETUNE_CPU_KERNEL(MlpBackward)
SIDETUNE_CPU_KERNEL(MlpMeanForward)
SIDETUNE_CPU_KERNEL(MlpMeanBackward)

}  // namespace sidetune::cpu
