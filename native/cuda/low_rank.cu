#include "low_rank_rows.cuh"

namespace sidetune::cuda {
namespace {

__global__ void take_factors_kernel(const float* a, const Pairs pairs, int64_t d, int64_t padded, bool wants_c, float* to) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  if (a) take_projection(a, pairs.r, d, padded, thread, threads, to);
  if (wants_c) take_factors(pairs, d, padded, thread, threads, to + (a ? padded * d : 0));
}

// Rows that a block sums, one tile after another. 24 for each rank keep what sums cost under a tenth of what the rows move; of
// more than two ranks there are 64 groups where there are rows for them.
int64_t group_rows(int64_t rows, int64_t ranks) {
  return std::min<int64_t>(std::max<int64_t>(24 * ranks, 32), std::max<int64_t>(divide_up(rows, 64), 48));
}

template <class T>
struct GradientArguments {
  Pairs pairs;  // without grad_h, u is the gradient of u itself
  int64_t rows, d;
  const float* grad_h = nullptr;
  bool wants_c = false, wants_a = false;
  const float* a = nullptr;
  const T *z = nullptr, *residual = nullptr;
  T* grad_z = nullptr;
  int64_t group_rows = 0, padded = 0;
  float* sums = nullptr;           // [group][gradA if wanted, gradC if wanted][ranks, d]
  bool shared_sums = false;        // until the group is done
  const float* factors = nullptr;  // a if gradZ is wanted, and c; null: in shared memory
  float* coefficients = nullptr;   // u and gu by groups; null: in shared memory

  // gu = gradH cᵀ
  __host__ __device__ bool multiplies() const { return grad_h && (wants_a || grad_z); }
  __host__ __device__ int64_t sum_floats() const { return (int64_t{wants_a} + int64_t{wants_c}) * pairs.ranks() * d; }
};

constexpr int64_t kRankBatch = 32;  // ranks of which warps' sums meet at one barrier

// A block owns a group of rows and walks through it, kTile rows at a time; a thread owns the same columns in all of them. With
// kOne that is one vector, of which all loads of a tile are under way at once and stay in registers: every number is read once.
// First gu = gradH cᵀ is summed over the block; then, rank by rank, the thread adds to its columns of the group's gradA and gradC
// and to its gradZ.
template <class T, int V, int kRanks, int kTile, bool kOne>
__global__ void __launch_bounds__(kTile == 8 ? 256 : 512, 1) gradient_kernel(const GradientArguments<T> k) {
  SharedMemory shared;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int64_t ranks = k.pairs.ranks(), size = k.padded * k.d, group = blockIdx.x;
  const bool multiplies = k.multiplies();
  const int64_t batch = k.padded < kRankBatch ? k.padded : kRankBatch;
  float* partial = shared.take<float>(multiplies ? warps * batch * kTile : 0);
  float* u = k.coefficients ? k.coefficients + group * 2 * k.padded * kTile : shared.take<float>(2 * k.padded * kTile);
  float* gu = u + k.padded * kTile;  // both [ranks, kTile]
  float* sums = k.shared_sums ? shared.take<float>(k.sum_floats()) : k.sums + group * k.sum_floats();
  float* c_sums = sums + (k.wants_a ? ranks * k.d : 0);
  const float *a = k.factors, *c = k.factors + (k.grad_z ? size : 0);
  if (!k.factors) {
    float* own_a = k.grad_z ? shared.take<float>(size) : nullptr;
    float* own_c = multiplies ? shared.take<float>(size) : nullptr;
    if (own_a) take_projection(k.a, ranks, k.d, k.padded, threadIdx.x, blockDim.x, own_a);
    if (own_c) take_factors(k.pairs, k.d, k.padded, threadIdx.x, blockDim.x, own_c);
    a = own_a, c = own_c;
  }
  const int64_t own = static_cast<int64_t>(threadIdx.x) * V, step = kOne ? k.d : static_cast<int64_t>(blockDim.x) * V;
  for (int64_t column = own; column < k.d; column += step) {
    const Numbers<V> zeros = {};
    for (int64_t j = 0; j < ranks; j++) {
      if (k.wants_a) store(sums + j * k.d + column, zeros);
      if (k.wants_c) store(c_sums + j * k.d + column, zeros);
    }
  }
  const int64_t begin = group * k.group_rows, end = begin + k.group_rows < k.rows ? begin + k.group_rows : k.rows;
  for (int64_t row = begin; row < end; row += kTile) {
    const int64_t count = end - row < kTile ? end - row : kTile;
    const auto load_rows = [&](const auto* from, int64_t column, Numbers<V>(&numbers)[kTile]) {
#pragma unroll
      for (int i = 0; i < kTile; i++) {
        numbers[i] = {};
        if (from && column < k.d && i < count) numbers[i] = load<V>(from + (row + i) * k.d + column);
      }
    };
    Numbers<V> g[kTile], z[kTile], grad_z[kTile];
    if constexpr (kOne) {
      load_rows(k.grad_h, own, g);
      load_rows(k.wants_a ? k.z : nullptr, own, z);
      load_rows(k.grad_z ? k.residual : nullptr, own, grad_z);
    }
    __syncthreads();  // u and gu of the tile before have been used; factors are there
    for (int64_t at = threadIdx.x; at < ranks * kTile; at += blockDim.x) {
      const int64_t j = at / kTile, i = at % kTile;
      if (k.grad_h && !k.wants_c) continue;
      (k.grad_h ? u : gu)[at] = i < count ? k.pairs.u[j / k.pairs.r][(row + i) * k.pairs.r + j % k.pairs.r] : 0.0f;
    }
    for (int64_t first = 0; multiplies && first < k.padded; first += batch) {
      const int64_t last = first + batch < k.padded ? first + batch : k.padded;
      for (int64_t rank = first; rank < last; rank += kRanks) {
        float values[kTile * kRanks] = {};
        for (int64_t column = own; column < k.d; column += step) {
          if constexpr (!kOne) load_rows(k.grad_h, column, g);
#pragma unroll
          for (int j = 0; j < kRanks; j++) {
            const Numbers<V> factor = load<V>(c + (rank + j) * k.d + column);
#pragma unroll
            for (int i = 0; i < kTile; i++) {
#pragma unroll
              for (int n = 0; n < V; n++) values[j * kTile + i] = fmaf(g[i][n], factor[n], values[j * kTile + i]);
            }
          }
        }
        const float sum = warp_sums(values);
        if (lane() < kTile * kRanks) partial[(warp() * batch + rank - first) * kTile + lane()] = sum;
      }
      __syncthreads();
      for (int64_t at = threadIdx.x; at < (last - first) * kTile; at += blockDim.x) {
        float total = 0;
        for (int w = 0; w < warps; w++) total += partial[w * batch * kTile + at];
        gu[first * kTile + at] = total;
      }
      if (last < k.padded) __syncthreads();  // before the next batch's sums
    }
    __syncthreads();
    for (int64_t column = own; column < k.d; column += step) {
      if constexpr (!kOne) {
        load_rows(k.wants_c ? k.grad_h : nullptr, column, g);
        load_rows(k.wants_a ? k.z : nullptr, column, z);
        load_rows(k.grad_z ? k.residual : nullptr, column, grad_z);
      }
      for (int64_t j = 0; j < ranks; j++) {
        const auto add_rows = [&](float* to, const float* coefficients, const Numbers<V>(&numbers)[kTile]) {
          Numbers<V> sum = load<V>(to);
#pragma unroll
          for (int i = 0; i < kTile; i++) {
#pragma unroll
            for (int n = 0; n < V; n++) sum[n] = fmaf(coefficients[i], numbers[i][n], sum[n]);
          }
          store(to, sum);
        };
        if (k.wants_c) add_rows(c_sums + j * k.d + column, u + j * kTile, g);
        if (k.wants_a) add_rows(sums + j * k.d + column, gu + j * kTile, z);
        if (k.grad_z) {
          const Numbers<V> factor = load<V>(a + j * k.d + column);
#pragma unroll
          for (int i = 0; i < kTile; i++) {
#pragma unroll
            for (int n = 0; n < V; n++) grad_z[i][n] = fmaf(gu[j * kTile + i], factor[n], grad_z[i][n]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kTile; i++) {
        if (k.grad_z && i < count) store(k.grad_z + (row + i) * k.d + column, grad_z[i]);
      }
    }
  }
  if (!k.shared_sums) return;
  for (int64_t column = own; column < k.d; column += step) {
    float* to = k.sums + group * k.sum_floats() + column;
    for (int64_t j = 0; j < ranks; j++) {
      if (k.wants_a) store(to + j * k.d, load<V>(sums + j * k.d + column));
      if (k.wants_c) store(to + (c_sums - sums) + j * k.d, load<V>(c_sums + j * k.d + column));
    }
  }
}

// gradA and gradC take the groups' sums. A block owns 32 numbers: a lane owns one, and each warp adds up every eighth group.
__global__ void add_sums_kernel(const float* sums, int64_t groups, const Pairs pairs, float* grad_a, bool wants_c, int64_t d) {
  SharedMemory shared;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  float* partial = shared.take<float>(warps * kWarp);
  const int64_t size = pairs.ranks() * d, width = (grad_a ? size : 0) + (wants_c ? size : 0);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kWarp; first < width;
       first += static_cast<int64_t>(gridDim.x) * kWarp) {
    const int64_t at = first + lane();
    float sum = 0;
#pragma unroll 8
    for (int64_t group = warp(); group < groups; group += warps) sum += at < width ? sums[group * width + at] : 0.0f;
    partial[warp() * kWarp + lane()] = sum;
    __syncthreads();
    if (warp() == 0 && at < width) {
      float total = 0;
      for (int w = 0; w < warps; w++) total += partial[w * kWarp + lane()];
      const bool is_a = grad_a && at < size;
      const int64_t j = (is_a || !grad_a ? at : at - size) / d, column = at % d;
      (is_a ? grad_a[column * pairs.r + j] : pairs.grad_c[j / pairs.r][j % pairs.r * d + column]) += total;
    }
    __syncthreads();  // before the next numbers' sums
  }
}

int64_t gradient_workspace(int64_t rows, int64_t ranks, int64_t d, int sums) {
  const int64_t groups = divide_up(rows, group_rows(rows, ranks));
  return Workspace::aligned<float>(factor_floats(ranks, d)) + Workspace::aligned<float>(groups * sums * ranks * d) +
         (ranks > kMostRanks ? Workspace::aligned<float>(groups * 2 * round_up(ranks, 8) * 8) : 0);
}

template <class T, int V, int kRanks, int kTile, bool kOne>
void launch_gradients(Cuda& cuda, GradientArguments<T> k, float* factors) {
  const int64_t most = cuda.properties.most_shared_bytes, owners = round_up(divide_up(k.d, V), kWarp);
  const int64_t threads = kOne ? owners : std::min<int64_t>(owners, 256), warps = threads / kWarp;
  k.padded = round_up(k.pairs.ranks(), kRanks);
  int64_t bytes = k.multiplies() ? shared_bytes<float>(warps * std::min(k.padded, kRankBatch) * kTile) : 0;
  if (!k.coefficients) bytes += shared_bytes<float>(2 * k.padded * kTile);
  k.shared_sums = bytes + shared_bytes<float>(k.sum_floats()) <= most;
  if (k.shared_sums) bytes += shared_bytes<float>(k.sum_floats());
  const int64_t factor_bytes = ((k.grad_z ? 1 : 0) + (k.multiplies() ? 1 : 0)) * shared_bytes<float>(k.padded * k.d);
  if (bytes + factor_bytes <= most) {
    bytes += factor_bytes;
  } else {
    lay_out_factors(cuda, k.grad_z ? k.a : nullptr, k.pairs, k.d, k.padded, k.multiplies(), factors);
    k.factors = factors;
  }
  launch(cuda, gradient_kernel<T, V, kRanks, kTile, kOne>,
         {dim3(static_cast<unsigned>(divide_up(k.rows, k.group_rows))), static_cast<int>(threads), bytes}, k);
}

template <class T>
void gradients(Cuda& cuda, GradientArguments<T> k, float* grad_a, Workspace scratch) {
  if (k.rows == 0 || k.d == 0 || !(k.wants_c || k.wants_a || k.grad_z)) return;
  const int64_t ranks = k.pairs.ranks();
  k.group_rows = group_rows(k.rows, ranks);
  const int64_t groups = divide_up(k.rows, k.group_rows);
  float* factors = scratch.take<float>(factor_floats(ranks, k.d));
  k.sums = scratch.take<float>(groups * k.sum_floats());
  if (ranks > kMostRanks) k.coefficients = scratch.take<float>(groups * 2 * round_up(ranks, 8) * 8);
  if (k.d % 4) {
    launch_gradients<T, 1, 8, 4, false>(cuda, k, factors);
  } else if (k.d > 4 * 512) {
    launch_gradients<T, 4, 8, 4, false>(cuda, k, factors);
  } else if (k.d > 4 * 256) {
    launch_gradients<T, 4, 4, 4, true>(cuda, k, factors);
  } else if (ranks > 2) {
    launch_gradients<T, 4, 4, 8, true>(cuda, k, factors);
  } else if (ranks == 2) {
    launch_gradients<T, 4, 2, 8, true>(cuda, k, factors);
  } else {
    launch_gradients<T, 4, 1, 8, true>(cuda, k, factors);
  }
  add_sums(cuda, k.sums, groups, k.pairs, grad_a, k.wants_c, k.d);
}

}  // namespace

// What one launch cannot take is added by the next.
void combine(Cuda& cuda, const TensorList& u, const TensorList& c, float* h, Workspace scratch) {
  const int64_t rows = u[0].rows(), d = c[0].dim(1);
  for (size_t first = 0; first < c.size(); first += Pairs::kMost) {
    const HChange change{first == 0 ? HChange::write : HChange::add, h};
    change_rows(cuda, pairs_from(first, u, c, {}, {}), rows, d, change, scratch);
  }
}

void lay_out_factors(Cuda& cuda, const float* a, const Pairs& pairs, int64_t d, int64_t padded, bool wants_c, float* to) {
  constexpr int kThreads = 256;
  launch(cuda, take_factors_kernel, {blocks_for(cuda.properties, d, kThreads), kThreads}, a, pairs, d, padded, wants_c, to);
}

void add_sums(Cuda& cuda, const float* sums, int64_t groups, const Pairs& pairs, float* grad_a, bool wants_c, int64_t d) {
  constexpr int kThreads = 256;
  const int64_t numbers = ((grad_a ? 1 : 0) + (wants_c ? 1 : 0)) * pairs.ranks() * d;
  launch(cuda, add_sums_kernel, {blocks_for(cuda.properties, numbers, kWarp), kThreads, shared_bytes<float>(kThreads)}, sums,
         groups, pairs, grad_a, wants_c, d);
}

Pairs pair(const Tensor& u, int64_t r, const Tensor& c, const Tensor& grad_c) {
  Pairs pairs;
  pairs.count = 1, pairs.r = r;
  pairs.u[0] = u.as<const float>(), pairs.c[0] = c.as<const float>(), pairs.grad_c[0] = grad_c.as<float>();
  return pairs;
}

Pairs pairs_from(size_t first, const TensorList& u, const TensorList& c, const TensorList& grad_u, const TensorList& grad_c) {
  Pairs pairs;
  pairs.count = static_cast<int>(std::min<size_t>(c.size() - first, Pairs::kMost)), pairs.r = c[0].dim(0);
  for (int j = 0; j < pairs.count; j++) {
    pairs.u[j] = u[first + j].as<const float>(), pairs.c[j] = c[first + j].as<const float>();
    if (!grad_u.empty()) pairs.grad_u[j] = grad_u[first + j].as<float>();
    if (!grad_c.empty()) pairs.grad_c[j] = grad_c[first + j].as<float>();
  }
  return pairs;
}

int64_t workspace(Cuda&, const LowRankAccumulateForward& k) { return row_workspace(k.z.rows(), k.c.dim(0), k.z.dim(-1)); }

void run(Cuda& cuda, const LowRankAccumulateForward& k, Workspace scratch) {
  RowArguments rows{pair({}, k.c.dim(0), k.c, {}), k.z.rows(), k.z.dim(-1)};
  rows.a = k.a.as<const float>(), rows.u = k.u.as<float>(), rows.changes = true;
  const HChange change{k.initialize ? HChange::write : HChange::add, k.h.as<float>()};
  dispatch(k.z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    pass_rows(cuda, k.z.as<const T>(), rows, change, scratch);
  });
}

int64_t workspace(Cuda&, const LowRankUndo& k) { return row_workspace(k.h.rows(), k.c.dim(0), k.h.dim(-1)); }

void run(Cuda& cuda, const LowRankUndo& k, Workspace scratch) {
  change_rows(cuda, pair(k.u, k.c.dim(0), k.c, {}), k.h.rows(), k.h.dim(-1), HChange{HChange::subtract, k.h.as<float>()},
              scratch);
}

int64_t workspace(Cuda&, const LowRankAccumulateBackward& k) {
  return gradient_workspace(k.z.rows(), k.c.dim(0), k.z.dim(-1), (k.grad_a ? 1 : 0) + (k.grad_c ? 1 : 0));
}

void run(Cuda& cuda, const LowRankAccumulateBackward& k, Workspace scratch) {
  dispatch(k.z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    GradientArguments<T> gradient{pair(k.u, k.c.dim(0), k.c, k.grad_c), k.z.rows(), k.z.dim(-1)};
    gradient.grad_h = k.grad_h.as<const float>(), gradient.a = k.a.as<const float>(), gradient.z = k.z.as<const T>();
    gradient.residual = k.residual.as<const T>(), gradient.grad_z = k.grad_z.as<T>();
    gradient.wants_a = static_cast<bool>(k.grad_a), gradient.wants_c = static_cast<bool>(k.grad_c);
    gradients(cuda, gradient, k.grad_a.as<float>(), scratch);
  });
}

int64_t workspace(Cuda&, const LowRankProjectForward& k) { return row_workspace(k.z.rows(), k.a.dim(1), k.a.dim(0)); }

void run(Cuda& cuda, const LowRankProjectForward& k, Workspace scratch) {
  RowArguments rows{pair({}, k.a.dim(1), {}, {}), k.z.rows(), k.a.dim(0)};
  rows.a = k.a.as<const float>(), rows.u = k.u.as<float>();
  dispatch(k.z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    pass_rows(cuda, k.z.as<const T>(), rows, HChange(), scratch);
  });
}

int64_t workspace(Cuda&, const LowRankProjectBackward& k) {
  return gradient_workspace(k.z.rows(), k.a.dim(1), k.a.dim(0), k.grad_a ? 1 : 0);
}

void run(Cuda& cuda, const LowRankProjectBackward& k, Workspace scratch) {
  dispatch(k.z.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    GradientArguments<T> gradient{pair(k.grad_u, k.a.dim(1), {}, {}), k.z.rows(), k.a.dim(0)};
    gradient.a = k.a.as<const float>(), gradient.z = k.z.as<const T>();
    gradient.residual = k.residual.as<const T>(), gradient.grad_z = k.grad_z.as<T>();
    gradient.wants_a = static_cast<bool>(k.grad_a);
    gradients(cuda, gradient, k.grad_a.as<float>(), scratch);
  });
}

int64_t workspace(Cuda&, const LowRankCombineForward& k) { return row_workspace(k.h.rows(), most_ranks(k.c), k.h.dim(-1)); }

void run(Cuda& cuda, const LowRankCombineForward& k, Workspace scratch) { combine(cuda, k.u, k.c, k.h.as<float>(), scratch); }

SIDETUNE_CUDA_KERNEL(LowRankAccumulateForward)
SIDETUNE_CUDA_KERNEL(LowRankUndo)
SIDETUNE_CUDA_KERNEL(LowRankAccumulateBackward)
SIDETUNE_CUDA_KERNEL(LowRankProjectForward)
SIDETUNE_CUDA_KERNEL(LowRankProjectBackward)
SIDETUNE_CUDA_KERNEL(LowRankCombineForward)

}  // namespace sidetune::cuda
