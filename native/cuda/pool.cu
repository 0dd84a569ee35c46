#include "../pool.h"

#include "gelu_slope.cuh"
#include "launch.cuh"
#include "vector.cuh"

namespace sidetune::cuda {
namespace {

// Which tokens are read: [begin, end).
struct Span {
  int64_t begin, end;
};
Span tokens_of(PoolMode mode, int64_t prefix_tokens, int64_t tokens) {
  return mode == PoolMode::mean ? Span{prefix_tokens, tokens} : Span{0, 1};
}

constexpr int kThreads = 64;
constexpr int kColumns = 4;  // that a thread owns, where rows can be read so
constexpr int kAhead = 8;    // tokens that are on their way at once: few threads have columns, each must have many loads open

// A thread owns V columns of an image and adds the tokens in order.
template <class T, class Out, int V>
__global__ void __launch_bounds__(kThreads)
    pool_forward(const T* x, Out* out, int64_t images, int64_t tokens, int64_t d, Span read) {
  const int64_t owners = d / V;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t owner = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; owner < images * owners; owner += step) {
    const int64_t image = owner / owners, column = (owner - image * owners) * V;
    const T* from = x + image * tokens * d + column;
    Numbers<V> sum = {};
    int64_t token = read.begin;
    for (; token + kAhead <= read.end; token += kAhead) {
      Numbers<V> rows[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; i++) rows[i] = load<V>(from + (token + i) * d);
#pragma unroll
      for (int i = 0; i < kAhead; i++)
        for (int n = 0; n < V; n++) sum[n] += rows[i][n];
    }
    for (; token < read.end; token++) {
      const Numbers<V> row = load<V>(from + token * d);
      for (int n = 0; n < V; n++) sum[n] += row[n];
    }
    for (int n = 0; n < V; n++) sum[n] /= static_cast<float>(read.end - read.begin);
    store(out + image * d + column, sum);
  }
}

// A block owns kGroupRows tokens of an image; a thread owns V columns of them and reads its part of gradOut once.
template <class T, class Out, int V>
__global__ void pool_backward(const Out* grad_out, const SlopeOf<T>* slope, T* grad_x, int64_t images, int64_t tokens, int64_t d,
                              Span read) {
  const int64_t groups = (tokens + kGroupRows - 1) / kGroupRows;
  const float share = 1.0f / static_cast<float>(read.end - read.begin);
  for (int64_t task = blockIdx.x; task < images * groups; task += gridDim.x) {
    const int64_t image = task / groups, begin = (task - image * groups) * kGroupRows;
    const int64_t end = begin + kGroupRows < tokens ? begin + kGroupRows : tokens;
    for (int64_t column = static_cast<int64_t>(threadIdx.x) * V; column < d; column += static_cast<int64_t>(blockDim.x) * V) {
      Numbers<V> gradient = load<V>(grad_out + image * d + column);
      for (int n = 0; n < V; n++) gradient[n] *= share;
      for (int64_t token = begin; token < end; token++) {
        const bool was_read = token >= read.begin && token < read.end;
        const int64_t at = (image * tokens + token) * d + column;
        Numbers<V> row;
        for (int n = 0; n < V; n++) row[n] = was_read ? gradient[n] : 0.0f;
        if (slope) {
          const Numbers<V> slopes = load<V>(slope + at);
          for (int n = 0; n < V; n++) row[n] *= from_slope(slopes[n], slope);
        }
        store(grad_x + at, row);
      }
    }
  }
}

}  // namespace

void run(Cuda& cuda, const PoolForward& k, Workspace) {
  const int64_t images = k.x.dim(0), tokens = k.x.dim(1), d = k.x.dim(2);
  const Span read = tokens_of(k.mode, k.prefix_tokens, tokens);
  const auto start = [&](auto type, auto out_type, auto width) {
    using T = typename decltype(type)::type;
    using Out = typename decltype(out_type)::type;
    launch(cuda, pool_forward<T, Out, width.value>, {blocks_for(cuda.properties, images * (d / width.value), kThreads), kThreads},
           k.x.as<const T>(), k.out.as<Out>(), images, tokens, d, read);
  };
  dispatch(k.x.dtype, [&](auto type) {
    dispatch(k.out.dtype, [&](auto out_type) {
      d % kColumns == 0 ? start(type, out_type, Width<kColumns>{}) : start(type, out_type, Width<1>{});
    });
  });
}

void run(Cuda& cuda, const PoolBackward& k, Workspace) {
  if (!k.grad_x) return;
  const int64_t images = k.grad_x.dim(0), tokens = k.grad_x.dim(1), d = k.grad_x.dim(2);
  const Span read = tokens_of(k.mode, k.prefix_tokens, tokens);
  const auto start = [&](auto type, auto out_type, auto width) {
    using T = typename decltype(type)::type;
    using Out = typename decltype(out_type)::type;
    const int64_t owners = divide_up(divide_up(d, width.value), 32) * 32;
    launch(cuda, pool_backward<T, Out, width.value>,
           {blocks_for(cuda.properties, images * group_count(tokens), 1), static_cast<int>(std::min<int64_t>(owners, 256))},
           k.grad_out.as<const Out>(), k.slope.as<const SlopeOf<T>>(), k.grad_x.as<T>(), images, tokens, d, read);
  };
  dispatch(k.grad_x.dtype, [&](auto type) {
    dispatch(k.grad_out.dtype, [&](auto out_type) { dispatch_width(d, [&](auto width) { start(type, out_type, width); }); });
  });
}

SIDETUNE_CUDA_KERNEL(PoolForward)
SIDETUNE_CUDA_KERNEL(PoolBackward)

}  // namespace sidetune::cuda
