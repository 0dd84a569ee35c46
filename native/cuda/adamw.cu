#include "../adamw.h"

#include "launch.cuh"
#include "vector.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8 * kThreads;  // numbers that a block has at a time
constexpr int kMostTensors = 88;
constexpr size_t kParameterBytes = 4096;  // of a kernel's arguments

// Tensors that one launch updates, cut into chunks: those of tensor t are first_chunk[t] … first_chunk[t + 1] − 1.
struct Table {
  float *parameter[kMostTensors], *first_moment[kMostTensors], *second_moment[kMostTensors];
  const float* gradient[kMostTensors];
  int64_t size[kMostTensors];
  int32_t first_chunk[kMostTensors + 1];
  int32_t tensors;
};
static_assert(sizeof(Table) + sizeof(AdamwFactors) + sizeof(const Finding*) <= kParameterBytes);

template <int V>
__device__ void update(const AdamwFactors& a, float* parameter, float* first_moment, float* second_moment,
                       const float* gradient) {
  const Numbers<V> g = load<V>(gradient);
  Numbers<V> m = load<V>(first_moment), v = load<V>(second_moment), p = load<V>(parameter);
  for (int i = 0; i < V; i++) {
    m[i] = fmaf(a.beta1, m[i], a.one_minus_beta1 * g[i]);
    v[i] = fmaf(a.beta2, v[i], a.one_minus_beta2 * (g[i] * g[i]));
    p[i] = fmaf(a.keep, p[i], -(a.rate * m[i] / fmaf(sqrtf(v[i]), a.root, a.eps)));
  }
  store(first_moment, m);
  store(second_moment, v);
  store(parameter, p);
}

// A block owns a chunk of one tensor, a thread every 256th vector of four in it: many small tensors are as many blocks, a large
// one is many. After a call that failed nothing moves.
__global__ void __launch_bounds__(kThreads) adamw_update(const Table table, const AdamwFactors factors, const Finding* failed) {
  if (failed->ticket != 0) return;
  for (int64_t chunk = blockIdx.x; chunk < table.first_chunk[table.tensors]; chunk += gridDim.x) {
    int tensor = 0;  // the last one that begins at or before the chunk
    for (int end = table.tensors; end - tensor > 1;) {
      const int middle = (tensor + end) / 2;
      (table.first_chunk[middle] <= chunk ? tensor : end) = middle;
    }
    const int64_t begin = (chunk - table.first_chunk[tensor]) * kChunk, left = table.size[tensor] - begin;
    const int count = static_cast<int>(left < kChunk ? left : kChunk);
    float *parameter = table.parameter[tensor] + begin, *first_moment = table.first_moment[tensor] + begin;
    float* second_moment = table.second_moment[tensor] + begin;
    const float* gradient = table.gradient[tensor] + begin;
    for (int i = static_cast<int>(threadIdx.x) * 4; i + 4 <= count; i += kThreads * 4)
      update<4>(factors, parameter + i, first_moment + i, second_moment + i, gradient + i);
    const int i = count / 4 * 4 + static_cast<int>(threadIdx.x);
    if (i < count) update<1>(factors, parameter + i, first_moment + i, second_moment + i, gradient + i);
  }
}

}  // namespace

void run(Cuda& cuda, const AdamwUpdate& k, Workspace) {
  // One launch, unless the list is longer than a kernel's arguments hold.
  const size_t tensors = k.parameters.size();
  for (size_t first = 0; first < tensors; first += kMostTensors) {
    Table table = {};
    for (size_t i = first; i < std::min<size_t>(first + kMostTensors, tensors); i++) {
      const int t = table.tensors++;
      table.parameter[t] = k.parameters[i].as<float>();
      table.first_moment[t] = k.first_moments[i].as<float>();
      table.second_moment[t] = k.second_moments[i].as<float>();
      table.gradient[t] = k.gradients[i].as<const float>();
      table.size[t] = k.parameters[i].size();
      table.first_chunk[t + 1] = table.first_chunk[t] + static_cast<int32_t>(divide_up(table.size[t], kChunk));
    }
    const int64_t chunks = table.first_chunk[table.tensors];
    launch(cuda, adamw_update, {blocks_for(cuda.properties, chunks, 1), kThreads}, table, k.factors(), cuda.findings->first());
  }
}

SIDETUNE_CUDA_KERNEL(AdamwUpdate)

}  // namespace sidetune::cuda
