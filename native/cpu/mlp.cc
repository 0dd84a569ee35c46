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

// Rows [first, first + count) of a tensor as a matrix; of an absent one, an absent one.
Tensor rows_of(const Tensor& tensor, int64_t first, int64_t count) {
  if (!tensor) return {};
  Tensor part;
  part.dtype = tensor.dtype, part.rank = 2, part.shape[0] = count, part.shape[1] = tensor.dim(-1);
  part.data = tensor.as<std::byte>() + first * tensor.dim(-1) * size_of(tensor.dtype);
  return part;
}

Tensor hidden_rows(const Tensor& like, int64_t count, int64_t width, std::byte* data) {
  Tensor hidden;
  hidden.dtype = like.dtype, hidden.rank = 2, hidden.shape[0] = count, hidden.shape[1] = width, hidden.data = data;
  return hidden;
}

int64_t hidden_bytes(const Tensor& like, int64_t rows, int64_t width) {
  return Workspace::aligned<std::byte>(std::min(rows, step_of(rows)) * width * size_of(like.dtype));
}

struct ForwardStep {
  LinearForward first, second;

  ForwardStep(const MlpForward& k, int64_t begin, int64_t count, std::byte* data) {
    const Tensor hidden = hidden_rows(k.x, count, k.weight1.dim(0), data);
    first.x = rows_of(k.x, begin, count), first.weight = k.weight1, first.bias = k.bias1, first.out = hidden;
    first.pre_activation = rows_of(k.pre_activation, begin, count), first.activation = Activation::gelu;
    second.x = hidden, second.weight = k.weight2, second.bias = k.bias2, second.residual = rows_of(k.residual, begin, count);
    second.out = rows_of(k.out, begin, count);
  }
};

struct BackwardStep {
  LinearBackward second, first;

  BackwardStep(const MlpBackward& k, int64_t begin, int64_t count, std::byte* data) {
    const Tensor hidden = hidden_rows(k.grad_out, count, k.weight1.dim(0), data);
    second.grad_out = rows_of(k.grad_out, begin, count), second.weight = k.weight2, second.grad_x = hidden;
    second.x_pre_activation = rows_of(k.pre_activation, begin, count);
    first.grad_out = hidden, first.weight = k.weight1, first.grad_x = rows_of(k.grad_x, begin, count);
  }
};

}  // namespace

void run(Cpu& cpu, const MlpForward& k, Workspace scratch) {
  const int64_t rows = k.x.rows(), step = step_of(rows);
  auto* hidden = scratch.take<std::byte>(hidden_bytes(k.x, rows, k.weight1.dim(0)));
  for (int64_t begin = 0; begin < rows; begin += step) {
    const ForwardStep layers(k, begin, std::min(step, rows - begin), hidden);
    run(cpu, layers.first, scratch);
    run(cpu, layers.second, scratch);
  }
}
int64_t workspace(Cpu& cpu, const MlpForward& k) {
  const int64_t rows = k.x.rows();
  const ForwardStep layers(k, 0, std::min(rows, step_of(rows)), nullptr);
  return hidden_bytes(k.x, rows, k.weight1.dim(0)) + std::max(workspace(cpu, layers.first), workspace(cpu, layers.second));
}

void run(Cpu& cpu, const MlpBackward& k, Workspace scratch) {
  const int64_t rows = k.grad_out.rows(), step = step_of(rows);
  auto* hidden = scratch.take<std::byte>(hidden_bytes(k.grad_out, rows, k.weight1.dim(0)));
  for (int64_t begin = 0; begin < rows; begin += step) {
    const BackwardStep layers(k, begin, std::min(step, rows - begin), hidden);
    run(cpu, layers.second, scratch);
    run(cpu, layers.first, scratch);
  }
}
int64_t workspace(Cpu& cpu, const MlpBackward& k) {
  const int64_t rows = k.grad_out.rows();
  const BackwardStep layers(k, 0, std::min(rows, step_of(rows)), nullptr);
  return hidden_bytes(k.grad_out, rows, k.weight1.dim(0)) + std::max(workspace(cpu, layers.second), workspace(cpu, layers.first));
}

SIDETUNE_CPU_KERNEL(MlpForward)
SIDETUNE_CPU_KERNEL(MlpBackward)

}  // namespace sidetune::cpu
