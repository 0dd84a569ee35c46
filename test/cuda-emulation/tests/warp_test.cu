#include "emulated.h"
#include "sample_kernels.cuh"

namespace sidetune::testing {
namespace {

constexpr unsigned kAll = 0xffffffffu;

__global__ void shuffles(double* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const double own = lane + 0.5;
  double* to = out + threadIdx.x * 8;
  to[0] = __shfl_sync(kAll, own, 3);
  to[1] = __shfl_sync(kAll, own, lane + 1, 8);
  to[2] = __shfl_xor_sync(kAll, lane, 5);
  to[3] = __shfl_down_sync(kAll, static_cast<float>(own), 3);
  to[4] = __shfl_down_sync(kAll, own, 3, 16);
  to[5] = __shfl_up_sync(kAll, static_cast<unsigned long long>(lane), 2);
  to[6] = __shfl_up_sync(kAll, own, 2, 4);
  to[7] = __shfl_xor_sync(kAll, own, 16, 8);  // a later group keeps its own, an earlier one is read
}

TEST(shuffles_move_what_the_manual_says) {
  for (const char* order : kOrders) {
    Emulated device(order);
    Numbers<double> out(device, 64 * 8);
    SUCCEEDS(device.launch(shuffles, 1, 64, 0, out.data()));
    const auto result = out.read();
    for (int thread = 0; thread < 64; thread++) {
      const int lane = thread % 32;
      const double expected[8] = {3.5,
                                  lane / 8 * 8 + (lane + 1) % 8 + 0.5,
                                  static_cast<double>(lane ^ 5),
                                  (lane < 29 ? lane + 3 : lane) + 0.5,
                                  (lane % 16 < 13 ? lane + 3 : lane) + 0.5,
                                  static_cast<double>(lane >= 2 ? lane - 2 : lane),
                                  (lane % 4 >= 2 ? lane - 2 : lane) + 0.5,
                                  (lane >= 16 ? lane - 16 : lane) + 0.5};
      for (int i = 0; i < 8; i++) CHECK_EQUAL(result[thread * 8 + i], expected[i]);
    }
  }
}

__global__ void ballots(unsigned* out) {
  const bool even = threadIdx.x % 2 == 0;
  out[threadIdx.x * 3] = __ballot_sync(kAll, even);
  out[threadIdx.x * 3 + 1] = static_cast<unsigned>(__any_sync(kAll, threadIdx.x == 33));
  out[threadIdx.x * 3 + 2] = static_cast<unsigned>(__all_sync(kAll, threadIdx.x < 40));
}

TEST(votes) {
  for (const char* order : kOrders) {
    Emulated device(order);
    Numbers<unsigned> out(device, 48 * 3);
    SUCCEEDS(device.launch(ballots, 1, 48, 0, out.data()));  // the last warp is half a warp
    const auto result = out.read();
    for (unsigned thread = 0; thread < 48; thread++) {
      CHECK_EQUAL(result[thread * 3], thread < 32 ? 0x55555555u : 0x5555u);
      CHECK_EQUAL(result[thread * 3 + 1], thread < 32 ? 0u : 1u);
      CHECK_EQUAL(result[thread * 3 + 2], thread < 32 ? 1u : 0u);
    }
  }
}

__global__ void halves(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  int value = lane;
  if (lane < 16) {
    for (int distance = 8; distance > 0; distance /= 2) value += __shfl_xor_sync(0x0000ffffu, value, distance);
  } else {
    for (int distance = 8; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffff0000u, value, distance);
  }
  out[lane] = value;
}

TEST(parts_of_a_warp_meet_apart) {
  for (const char* order : kOrders) {
    Emulated device(order);
    Numbers<int> out(device, 32);
    SUCCEEDS(device.launch(halves, 1, 32, 0, out.data()));
    const auto result = out.read();
    for (int lane = 0; lane < 32; lane++) CHECK_EQUAL(result[lane], lane < 16 ? 120 : 376);
  }
}

TEST(lanes_hand_over_through_shared_memory) {
  for (const char* order : kOrders) {
    Emulated device(order);
    std::vector<int> numbers(128);
    for (int i = 0; i < 128; i++) numbers[i] = i;
    Numbers<int> from(device, numbers), to(device, 128);
    SUCCEEDS(device.launch(reverse_in_warps, 1, 128, 128 * sizeof(int), from.data(), to.data()));
    const auto result = to.read();
    for (int i = 0; i < 128; i++) CHECK_EQUAL(result[i], i ^ 31);
  }
}

__global__ void not_in_the_mask() { __shfl_sync(0xfffffffeu, 1, 1); }
__global__ void half_takes_part(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(kAll, static_cast<int>(threadIdx.x), 1);
}
__global__ void reads_outside(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, static_cast<int>(threadIdx.x), 16);
}
__global__ void reads_no_lane(int* out) { out[threadIdx.x] = __shfl_xor_sync(kAll, static_cast<int>(threadIdx.x), 8); }
__global__ void different_operations(int* out) {
  if (threadIdx.x < 16)
    out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
  else
    out[threadIdx.x] = __any_sync(kAll, 1);
}
__global__ void different_masks(int* out) {
  const unsigned mask = threadIdx.x < 16 ? 0x0001ffffu : 0xffff8000u;
  out[threadIdx.x] = __shfl_sync(mask, 1, 16);
  __syncthreads();
}
__global__ void in_two_loops(int* out) {
  for (unsigned i = 0; i < threadIdx.x % 2 + 1; i++) out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
}

TEST(wrong_masks_are_reported) {
  for (const char* order : kOrders) {
    const auto report_of = [order](auto kernel, int threads = 32) {
      Emulated device(order);
      Numbers<int> out(device, 32);
      return device.report_of(kernel, 1, threads, 0, out.data());
    };
    CHECK_CONTAINS(Emulated(order).report_of(not_in_the_mask, 1, 32, 0), "its lane 0 is not in the mask");
    const std::string half = report_of(half_takes_part);
    CHECK(half.find("have ended") != std::string::npos || half.find("ends while other lanes") != std::string::npos);
    CHECK_CONTAINS(report_of(reads_outside), "takes no part in the shuffle");
    CHECK_CONTAINS(report_of(reads_no_lane, 8), "takes no part in the shuffle");
    CHECK_CONTAINS(report_of(different_operations), "wait elsewhere");
    CHECK_CONTAINS(report_of(different_masks), "names other lanes");
    const std::string loops = report_of(in_two_loops);
    CHECK(loops.find("have ended") != std::string::npos || loops.find("ends while other lanes") != std::string::npos);
    CHECK_CONTAINS(loops, "warp_test.cu:");
  }
}

}  // namespace
}  // namespace sidetune::testing
