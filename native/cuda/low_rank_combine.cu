// Backward of lowRankCombine: gradU_j += gradH c_jᵀ and gradC_j += u_jᵀ gradH for all pairs in one launch.
//
// gradU needs all columns of a row, and each group of rows costs a sum of gradC as large as c. Blocks that sum both must own many
// rows for the sums to weigh little, so there are few of them: of 14 ranks and 768 columns, 48 rows a block move 1.55 times the
// bytes of the fields, 336 rows a tenth more. Hence two kinds of jobs, which blocks take in the order of groups: a tile of rows
// of gradU, and some columns and ranks of gradC over a group's rows. A group's rows (1 MB of 14 ranks) come from memory for the
// first of its jobs and from the second-level cache for the others.
#include "low_rank.cuh"
#include "shared.cuh"

namespace sidetune::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;  // of a block
constexpr int kSumRows = 4;                           // that a warp adds to gradC at a time
constexpr int64_t kTileRows = kWarps * kRows;

struct CombineArguments {
  Pairs pairs;
  const float* grad_h;
  int64_t rows, d;
  bool wants_u, wants_c;
  int64_t group_rows;
  int64_t padded;                  // ranks of c that are laid out
  const float* factors = nullptr;  // c; null: in shared memory
  int64_t column_parts, parts;     // of a group's gradC: of its columns, and of its columns and ranks
  float* sums = nullptr;           // [group][ranks, d]; null: there is one group, which adds to gradC itself

  __host__ __device__ int64_t groups() const { return divide_up(rows, group_rows); }
  __host__ __device__ int64_t jobs_of_group() const { return (wants_c ? parts : 0) + (wants_u ? group_rows / kTileRows : 0); }
};

// Ranks of which warps' sums meet at one barrier.
constexpr int most_that_meet(int ranks) { return ranks < 4 ? ranks : 4; }

// gradU of a warp's rows; c is [padded, d].
template <int V, int kRanks>
__device__ void add_grad_u(const CombineArguments& k, int64_t row, const float* c) {
  if (row >= k.rows) return;
  const int count = k.rows - row < kRows ? static_cast<int>(k.rows - row) : kRows;
  const int r = static_cast<int>(k.pairs.r), ranks = static_cast<int>(k.pairs.ranks());
  constexpr int kAtOnce = kRanks < kWarp / kRows ? kRanks : kWarp / kRows;  // that lanes have a sum each of
  for (int first = 0; first < ranks; first += kRanks) {
    float sums[kRows * kRanks] = {};
    add_row_products<V, kRanks>(k.grad_h + row * k.d, count, k.d, c + first * k.d, sums);
#pragma unroll
    for (int j = 0; j < kRanks; j += kAtOnce) {
      float some[kRows * kAtOnce];
#pragma unroll
      for (int i = 0; i < kRows * kAtOnce; i++) some[i] = sums[j * kRows + i];
      const float sum = warp_sums(some);
      const int rank = first + j + lane() / kRows, i = lane() % kRows;
      if (lane() < kRows * kAtOnce && rank < ranks && i < count) k.pairs.grad_u[rank / r][(row + i) * r + rank % r] += sum;
    }
  }
}

// A part of gradC over a group's rows: a lane owns V columns of up to kRanks ranks. Warps sum every eighth tile of rows; then
// their sums meet, in order.
template <int V, int kRanks>
__device__ void add_grad_c(const CombineArguments& k, int64_t group, int64_t part, float* coefficients, float* partial) {
  constexpr int kOwn = (kRanks * kSumRows + kWarp - 1) / kWarp;  // coefficients that a lane fetches
  constexpr int kMeet = most_that_meet(kRanks), kColumns = kWarp * V;
  const int r = static_cast<int>(k.pairs.r), ranks = static_cast<int>(k.pairs.ranks());
  const int first = static_cast<int>(part / k.column_parts) * kRanks;
  const int64_t first_column = part % k.column_parts * kColumns, column = first_column + lane() * V;
  const int64_t begin = group * k.group_rows, end = begin + k.group_rows < k.rows ? begin + k.group_rows : k.rows;
  const float* u[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; i++) {
    const int rank = first + (lane() + i * kWarp) / kSumRows;
    u[i] = rank < ranks ? k.pairs.u[rank / r] + rank % r : nullptr;
  }
  Numbers<V> sums[kRanks] = {};
  for (int64_t row = begin + warp() * kSumRows; row < end; row += kWarps * kSumRows) {
    Numbers<V> x[kSumRows] = {};
#pragma unroll
    for (int i = 0; i < kSumRows; i++) {
      if (column < k.d && row + i < end) x[i] = load<V>(k.grad_h + (row + i) * k.d + column);
    }
#pragma unroll
    for (int i = 0; i < kOwn; i++) {
      const int at = lane() + i * kWarp;
      const int64_t own_row = row + at % kSumRows;
      if (at < kRanks * kSumRows) coefficients[at] = u[i] && own_row < end ? u[i][own_row * r] : 0.0f;
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kRanks; j++) {
      const Numbers<kSumRows> factors = load<kSumRows>(coefficients + j * kSumRows);
#pragma unroll
      for (int i = 0; i < kSumRows; i++) {
#pragma unroll
        for (int n = 0; n < V; n++) sums[j][n] = fmaf(factors[i], x[i][n], sums[j][n]);
      }
    }
    __syncwarp();  // before the next rows' coefficients
  }
#pragma unroll
  for (int j = 0; j < kRanks; j += kMeet) {
#pragma unroll
    for (int i = 0; i < kMeet; i++) store(partial + (warp() * kMeet + i) * kColumns + lane() * V, sums[j + i]);
    __syncthreads();
    for (int at = threadIdx.x; at < kMeet * kColumns; at += kThreads) {
      const int rank = first + j + at / kColumns;
      const int64_t own_column = first_column + at % kColumns;
      if (rank >= ranks || own_column >= k.d) continue;
      float total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; w++) total += partial[w * kMeet * kColumns + at];
      if (k.sums) {
        k.sums[(group * ranks + rank) * k.d + own_column] = total;
      } else {
        k.pairs.grad_c[rank / r][rank % r * k.d + own_column] += total;
      }
    }
    __syncthreads();  // before the next sums
  }
}

// Sixteen ranks at a time take a few more registers than two blocks would leave each other.
template <int V, int kRanks>
__global__ void __launch_bounds__(kThreads, kRanks == 16 ? 1 : 2) combine_gradient_kernel(const CombineArguments k) {
  SharedMemory shared;
  float* coefficients = shared.take<float>(kWarps * kSumRows * kRanks);
  float* partial = shared.take<float>(kWarps * most_that_meet(kRanks) * kWarp * V);
  float* own_c = shared.take<float>(0);
  bool has_c = k.factors;
  for (int64_t job = blockIdx.x; job < k.groups() * k.jobs_of_group(); job += gridDim.x) {
    const int64_t group = job / k.jobs_of_group(), part = job % k.jobs_of_group(), tile = k.wants_c ? part - k.parts : part;
    if (tile < 0) {
      add_grad_c<V, kRanks>(k, group, part, coefficients + warp() * kSumRows * kRanks, partial);
      continue;
    }
    if (!has_c) {
      take_factors(k.pairs, k.d, k.padded, threadIdx.x, kThreads, own_c);
      has_c = true;
      __syncthreads();
    }
    add_grad_u<V, kRanks>(k, group * k.group_rows + tile * kTileRows + warp() * kRows, k.factors ? k.factors : own_c);
  }
}

// Rows of a group. 24 for each rank keep what sums cost under a tenth of what the rows move.
int64_t group_rows(int64_t rows, int64_t ranks) {
  const int64_t groups = std::max<int64_t>(rows / std::max<int64_t>(24 * ranks, 192), 1);
  return round_up(std::max<int64_t>(divide_up(rows, groups), 1), kTileRows);
}

// Ranks are worked off 1, 2, 4, 8 or 16 at a time.
template <class Body>
void dispatch_more_ranks(int64_t d, int64_t ranks, const Body& body) {
  dispatch_ranks(d, ranks, [&](auto width, auto at_a_time) {
    if constexpr (at_a_time.value == 8) {
      if (ranks > 8) return body(width, Width<16>{});
    }
    body(width, at_a_time);
  });
}
int64_t most_factors(const TensorList& c) { return round_up(most_ranks(c), 16) * c[0].dim(1); }

}  // namespace

int64_t workspace(Cuda&, const LowRankCombineBackward& k) {
  const int64_t rows = k.grad_h.rows(), ranks = most_ranks(k.c), groups = divide_up(rows, group_rows(rows, ranks));
  return (k.grad_u.empty() ? 0 : Workspace::aligned<float>(most_factors(k.c))) +
         (k.grad_c.empty() || groups == 1 ? 0 : Workspace::aligned<float>(groups * ranks * k.grad_h.dim(-1)));
}

void run(Cuda& cuda, const LowRankCombineBackward& k, Workspace scratch) {
  CombineArguments gradient;
  gradient.grad_h = k.grad_h.as<const float>(), gradient.rows = k.grad_h.rows(), gradient.d = k.grad_h.dim(-1);
  gradient.wants_u = !k.grad_u.empty(), gradient.wants_c = !k.grad_c.empty();
  if (gradient.rows == 0 || gradient.d == 0) return;
  const int64_t d = gradient.d;
  gradient.group_rows = group_rows(gradient.rows, most_ranks(k.c));
  const int64_t groups = gradient.groups();
  float* factors = gradient.wants_u ? scratch.take<float>(most_factors(k.c)) : nullptr;
  if (gradient.wants_c && groups > 1) gradient.sums = scratch.take<float>(groups * most_ranks(k.c) * d);
  for (size_t first = 0; first < k.c.size(); first += Pairs::kMost) {
    gradient.pairs = pairs_from(first, k.u, k.c, k.grad_u, k.grad_c);
    const int64_t ranks = gradient.pairs.ranks();
    dispatch_more_ranks(d, ranks, [&](auto width, auto at_a_time) {
      constexpr int kV = decltype(width)::value, kRanks = decltype(at_a_time)::value;
      gradient.column_parts = divide_up(d, kWarp * kV);
      gradient.parts = gradient.column_parts * divide_up(ranks, kRanks);
      gradient.padded = round_up(ranks, kRanks);
      gradient.factors = nullptr;
      int64_t bytes =
          shared_bytes<float>(kWarps * kSumRows * kRanks) + shared_bytes<float>(kWarps * most_that_meet(kRanks) * kWarp * kV);
      const int64_t factor_bytes = gradient.wants_u ? shared_bytes<float>(gradient.padded * d) : 0;
      if (bytes + factor_bytes <= cuda.properties.most_shared_bytes) {
        bytes += factor_bytes;
      } else {
        lay_out_factors(cuda, nullptr, gradient.pairs, d, gradient.padded, true, factors);
        gradient.factors = factors;
      }
      const Grid grid{blocks_for(cuda.properties, groups * gradient.jobs_of_group(), 1, 2), kThreads, bytes};
      launch(cuda, combine_gradient_kernel<kV, kRanks>, grid, gradient);
    });
    if (gradient.sums) add_sums(cuda, gradient.sums, groups, gradient.pairs, nullptr, true, d);
  }
}

SIDETUNE_CUDA_KERNEL(LowRankCombineBackward)

}  // namespace sidetune::cuda
