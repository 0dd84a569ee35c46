#include "../mlp.h"

#include <algorithm>

#include "../linear.h"
#include "gemm.h"

namespace sidetune::cpu {

// Of the linear family.
void run(Cpu& cpu, const LinearForward& k, Workspace scratch);
void run(Cpu& cpu, const LinearBackward& k, Workspace scratch);
int64_t workspace(Cpu& cpu, const LinearForward& k);
int64_t workspace(Cpu& cpu, const LinearBackward& k);

namespace {

// Rows whose hidden numbers are there at a time: enough for the products to run at full speed, few enough for the cache that
// cores share (6 MB of bf16 at ViT-B/16).
constexpr int64_t kMlpRows = 1024;

// [0, rows) in equal steps of whole tiles.
int64_t step_of(int64_t rows) {
  const int64_t steps = std::max<int64_t>(1, (rows + kMlpRows - 1) / kMlpRows);
  return ((rows + steps - 1) / steps + kTileRows - 1) / kTileRows * kTileRows;
}

Tensor matrix(DType dtype, int64_t rows, int64_t columns, std::byte* data) {
  Tensor result;
  result.dtype = dtype, result.rank = 2, result.shape[0] = rows, result.shape[1] = columns, result.data = data;
  return result;
}

// Rows [first, first + count) of a tensor; of an absent one, an absent one.
Tensor rows_of(const Tensor& tensor, int64_t first, int64_t count) {
  if (!tensor) return {};
  const int64_t width = tensor.dim(-1);
  return matrix(tensor.dtype, count, width, tensor.as<std::byte>() + first * width * size_of(tensor.dtype));
}

// The two layers' calls for rows [begin, begin + count), in the order in which they run; `hidden` lies between them.
struct ForwardStep {
  LinearForward first, second;

  static const Tensor& rows(const MlpForward& k) { return k.x; }
  ForwardStep(const MlpForward& k, int64_t begin, int64_t count, std::byte* data) {
    const Tensor hidden = matrix(k.x.dtype, count, k.weight1.dim(0), data);
    first.x = rows_of(k.x, begin, count), first.weight = k.weight1, first.bias = k.bias1, first.out = hidden;
    first.pre_activation = rows_of(k.pre_activation, begin, count), first.activation = Activation::gelu;
    second.x = hidden, second.weight = k.weight2, second.bias = k.bias2, second.residual = rows_of(k.residual, begin, count);
    second.out = rows_of(k.out, begin, count);
  }
};

struct BackwardStep {
  LinearBackward first, second;

  static const Tensor& rows(const MlpBackward& k) { return k.grad_out; }
  BackwardStep(const MlpBackward& k, int64_t begin, int64_t count, std::byte* data) {
    const Tensor hidden = matrix(k.grad_out.dtype, count, k.weight1.dim(0), data);
    first.grad_out = rows_of(k.grad_out, begin, count), first.weight = k.weight2, first.grad_x = hidden;
    first.x_pre_activation = rows_of(k.pre_activation, begin, count);
    second.grad_out = hidden, second.weight = k.weight1, second.grad_x = rows_of(k.grad_x, begin, count);
  }
};

int64_t hidden_bytes(const Tensor& rows, const Tensor& weight1) {
  const int64_t count = std::min(rows.rows(), step_of(rows.rows()));
  return Workspace::aligned<std::byte>(count * weight1.dim(0) * size_of(rows.dtype));
}

template <class Step, class Arguments>
void run_steps(Cpu& cpu, const Arguments& k, Workspace scratch) {
  const int64_t rows = Step::rows(k).rows(), size = step_of(rows);
  auto* hidden = scratch.take<std::byte>(hidden_bytes(Step::rows(k), k.weight1));
  for (int64_t begin = 0; begin < rows; begin += size) {
    const Step step(k, begin, std::min(size, rows - begin), hidden);
    run(cpu, step.first, scratch);
    run(cpu, step.second, scratch);
  }
}

template <class Step, class Arguments>
int64_t steps_workspace(Cpu& cpu, const Arguments& k) {
  const int64_t rows = Step::rows(k).rows();
  const Step step(k, 0, std::min(rows, step_of(rows)), nullptr);
  return hidden_bytes(Step::rows(k), k.weight1) + std::max(workspace(cpu, step.first), workspace(cpu, step.second));
}

}  // namespace

void run(Cpu& cpu, const MlpForward& k, Workspace scratch) { run_steps<ForwardStep>(cpu, k, scratch); }
void run(Cpu& cpu, const MlpBackward& k, Workspace scratch) { run_steps<BackwardStep>(cpu, k, scratch); }

int64_t workspace(Cpu& cpu, const MlpForward& k) { return steps_workspace<ForwardStep>(cpu, k); }
int64_t workspace(Cpu& cpu, const MlpBackward& k) { return steps_workspace<BackwardStep>(cpu, k); }

SIDETUNE_CPU_KERNEL(MlpForward)
SIDETUNE_CPU_KERNEL(MlpBackward)

}  // namespace sidetune::cpu
