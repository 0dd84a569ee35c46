#include "../cross_entropy.h"

#include <cmath>

#include "launch.cuh"
#include "shared.cuh"
#include "vector.cuh"
#include "warp.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kBatchThreads = 256;

// Threads of a block that owns a row: enough for eight classes each, and at most kMostRowThreads. A function of C alone, for it
// gives the order of the sums.
constexpr int64_t kMostRowThreads = 512;
int row_threads(int64_t C) { return static_cast<int>(std::min(divide_up(divide_up(C, 8), kWarp) * kWarp, kMostRowThreads)); }

// One block walks through the batch's labels and leaves the first that is no class, unless an earlier call has failed already.
__global__ void check_labels(const int32_t* labels, int64_t B, int64_t C, const Watch watch) {
  if (watch.has_found()) return;
  const auto is_wrong = [&](int64_t b) { return labels[b] < 0 || labels[b] >= C; };
  for (int64_t begin = 0; begin < B; begin += blockDim.x) {
    const int64_t b = begin + threadIdx.x;
    if (!__syncthreads_or(b < B && is_wrong(b))) continue;
    if (threadIdx.x != 0) return;
    int64_t row = begin;
    while (!is_wrong(row)) row++;
    watch.report(labels[row], row, C);
    return;
  }
}

// A block owns a row and reads it once: each thread keeps the largest of its logits and a sum of exponentials relative to it. The
// loss is summed from differences to the largest logit of all, so large logits cost no digits. A label that is no class makes it
// NaN.
template <int V>
__global__ void cross_entropy_rows(const float* logits, const int32_t* labels, float* losses, int32_t* hits, float* lse,
                                   int64_t B, int64_t C, float smoothing) {
  SharedMemory shared;
  float* scratch[2] = {shared.take<float>(kWarp), shared.take<float>(kWarp)};
  const auto shift_of = [](float largest) { return largest == -INFINITY ? 0.0f : largest; };
  for (int64_t b = blockIdx.x; b < B; b += gridDim.x) {
    const float* row = logits + b * C;
    const int64_t label = labels[b];
    const float own = label >= 0 && label < C ? row[label] : NAN;
    float largest = -INFINITY, sum_exp = 0, total = 0;
    bool is_beaten = false;
    for (int64_t c = static_cast<int64_t>(threadIdx.x) * V; c < C; c += static_cast<int64_t>(blockDim.x) * V) {
      const Numbers<V> z = load<V>(row + c);
      const float before = largest;
      for (int i = 0; i < V; i++) {
        largest = fmaxf(largest, z[i]);
        total += z[i];
        is_beaten |= z[i] > own || (z[i] == own && c + i < label);
      }
      const float shift = shift_of(largest);
      sum_exp *= expf(before - shift);
      for (int i = 0; i < V; i++) sum_exp += expf(z[i] - shift);
    }
    const float top = block_max(largest, scratch[0]);
    const float log_sum = logf(block_sum(sum_exp * expf(largest - shift_of(top)), scratch[1]));
    float loss = log_sum + (1 - smoothing) * (top - own);
    if (smoothing > 0) loss += smoothing * (top - block_sum(total, scratch[0]) / static_cast<float>(C));
    const bool is_hit = !__syncthreads_or(is_beaten) && !isnan(own);
    if (threadIdx.x != 0) continue;
    losses[b] = loss;
    hits[b] = is_hit;
    if (lse) lse[b] = top + log_sum;
  }
}

// One block takes the mean: a thread owns every 256th image.
__global__ void batch_mean(const float* losses, const int32_t* hits, int64_t B, float* loss, int32_t* correct) {
  SharedMemory shared;
  float sum = 0;
  int32_t count = 0;
  for (int64_t begin = 0; begin < B; begin += blockDim.x) {
    const int64_t b = begin + threadIdx.x;
    if (b < B) sum += losses[b];
    count += __syncthreads_count(b < B && hits[b]);
  }
  sum = block_sum(sum, shared.take<float>(kWarp));
  if (threadIdx.x != 0) return;
  *loss = sum / static_cast<float>(B);
  *correct = count;
}

// A block owns a row.
template <int V>
__global__ void cross_entropy_backward(const float* grad_loss, const float* logits, const int32_t* labels, const float* lse,
                                       float* grad_logits, int64_t B, int64_t C, float smoothing) {
  const float scale = *grad_loss / static_cast<float>(B), everywhere = smoothing / static_cast<float>(C);
  for (int64_t b = blockIdx.x; b < B; b += gridDim.x) {
    const int64_t label = labels[b];
    const float shift = lse[b];
    for (int64_t c = static_cast<int64_t>(threadIdx.x) * V; c < C; c += static_cast<int64_t>(blockDim.x) * V) {
      Numbers<V> z = load<V>(logits + b * C + c);
      for (int i = 0; i < V; i++) {
        z[i] = scale * (expf(z[i] - shift) - everywhere);
        if (c + i == label) z[i] -= scale * (1 - smoothing);
      }
      store(grad_logits + b * C + c, z);
    }
  }
}

void launch_check(Cuda& cuda, const Tensor& labels, int64_t classes) {
  launch(cuda, check_labels, {dim3(1), kBatchThreads}, labels.as<const int32_t>(), labels.size(), classes,
         cuda.findings->watch(label_out_of_range));
}

}  // namespace

int64_t workspace(Cuda&, const SoftmaxCrossEntropyForward& k) {
  const int64_t B = k.logits.dim(0);
  return Workspace::aligned<float>(B) + Workspace::aligned<int32_t>(B);
}

void run(Cuda& cuda, const SoftmaxCrossEntropyForward& k, Workspace scratch) {
  const int64_t B = k.logits.dim(0), C = k.logits.dim(1);
  float* losses = scratch.take<float>(B);
  int32_t* hits = scratch.take<int32_t>(B);
  launch_check(cuda, k.labels, C);
  dispatch_width(C, [&](auto width) {
    launch(cuda, cross_entropy_rows<width.value>,
           {blocks_for(cuda.properties, B, 1), row_threads(C), 2 * shared_bytes<float>(kWarp)}, k.logits.as<const float>(),
           k.labels.as<const int32_t>(), losses, hits, k.lse.as<float>(), B, C, k.label_smoothing);
  });
  launch(cuda, batch_mean, {dim3(1), kBatchThreads, shared_bytes<float>(kWarp)}, losses, hits, B, k.loss.as<float>(),
         k.correct.as<int32_t>());
}

void run(Cuda& cuda, const SoftmaxCrossEntropyBackward& k, Workspace) {
  if (!k.grad_logits) return;
  const int64_t B = k.logits.dim(0), C = k.logits.dim(1);
  launch_check(cuda, k.labels, C);
  dispatch_width(C, [&](auto width) {
    launch(cuda, cross_entropy_backward<width.value>, {blocks_for(cuda.properties, B, 1), row_threads(C)},
           k.grad_loss.as<const float>(), k.logits.as<const float>(), k.labels.as<const int32_t>(), k.lse.as<const float>(),
           k.grad_logits.as<float>(), B, C, k.label_smoothing);
  });
}

SIDETUNE_CUDA_KERNEL(SoftmaxCrossEntropyForward)
SIDETUNE_CUDA_KERNEL(SoftmaxCrossEntropyBackward)

}  // namespace sidetune::cuda
