#include "emulated.h"

namespace sidetune::testing {
namespace {

__global__ void votes(int* out, int limit) {
  const int predicate = static_cast<int>(threadIdx.x) < limit;
  const int count = __syncthreads_count(predicate), all = __syncthreads_and(predicate), any = __syncthreads_or(predicate);
  out[threadIdx.x] = count * 4 + (all != 0) * 2 + (any != 0);
}

TEST(barriers_count_and_vote) {
  for (const char* order : kOrders) {
    Emulated device(order);
    Numbers<int> out(device, 70);
    for (int limit : {0, 1, 69, 70}) {
      SUCCEEDS(device.launch(votes, 1, 70, 0, out.data(), limit));
      CHECK(out.read() == std::vector<int>(70, limit * 4 + (limit == 70) * 2 + (limit > 0)));
    }
  }
}

// Threads hand a number around, one place a barrier.
__global__ void rotate(int* numbers, int rounds) {
  int* places = reinterpret_cast<int*>(sidetune_shared);
  const int self = static_cast<int>(threadIdx.x), count = static_cast<int>(blockDim.x);
  int own = self;
  for (int round = 0; round < rounds; round++) {
    places[self] = own;
    __syncthreads();
    own = places[(self + 1) % count];
    __syncthreads();
  }
  numbers[static_cast<int>(blockIdx.x) * count + self] = own;
}

TEST(barriers_hold_everybody) {
  for (const char* order : kOrders) {
    Emulated device(order);
    for (int threads : {1, 2, 31, 33, 256, 1024}) {
      Numbers<int> out(device, static_cast<size_t>(2 * threads));
      SUCCEEDS(device.launch(rotate, 2, threads, threads * sizeof(int), out.data(), 5));
      const auto result = out.read();
      for (int i = 0; i < 2 * threads; i++) CHECK_EQUAL(result[i], (i % threads + 5) % threads);
    }
  }
}

__global__ void leaves_early(int limit) {
  if (static_cast<int>(threadIdx.x) >= limit) return;
  __syncthreads();
}
__global__ void two_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void barrier_in_one_half() {
  if (threadIdx.x < 32) __syncthreads();
  __syncwarp();
}
__global__ void barrier_against_warp() {
  if (threadIdx.x == 0)
    __syncthreads();
  else
    __syncwarp();
}

TEST(a_barrier_that_some_do_not_reach_is_reported) {
  for (const char* order : kOrders) {
    const std::string text = Emulated(order).report_of(leaves_early, 1, 64, 0, 40);
    CHECK_CONTAINS(text, "leaves_early");
    CHECK(text.find("have ended") != std::string::npos || text.find("ends while other threads") != std::string::npos);
    CHECK_CONTAINS(Emulated(order).report_of(two_barriers, 1, 64, 0), "wait at another, ");
    const std::string half = Emulated(order).report_of(barrier_in_one_half, 1, 64, 0);
    CHECK(half.find("have ended") != std::string::npos || half.find("ends while other threads") != std::string::npos);
    CHECK_CONTAINS(Emulated(order).report_of(barrier_against_warp, 1, 32, 0), "waits for ever in ");
  }
}

TEST(an_early_return_of_nobody_is_fine) {
  Emulated device;
  SUCCEEDS(device.launch(leaves_early, 1, 64, 0, 64));
  CHECK_EQUAL(device.report(), "cudaSuccess");
}

TEST(a_mistake_ends_the_grid_and_the_next_one_runs) {
  {
    Emulated device;
    CHECK_CONTAINS(device.report_of(two_barriers, 1, 64, 0), "two_barriers");
    CHECK_EQUAL(std::string(cudaGetErrorName(device.launch(leaves_early, 1, 64, 0, 64))), "cudaErrorLaunchFailure");  // it stays
  }
  Emulated device;
  Numbers<int> out(device, 128);
  SUCCEEDS(device.launch(rotate, 2, 64, 64 * sizeof(int), out.data(), 5));
  CHECK_EQUAL(out.read()[0], 5);
}

}  // namespace
}  // namespace sidetune::testing
