// Kernels as native/cuda has them, in every order of threads, and what is wrong with some.
#include <cuda_bf16.h>

#include <cmath>

#include "emulated.h"
#include "sample_kernels.cuh"

namespace sidetune::testing {
namespace {

__global__ void indices(int* out, dim3 block, dim3 grid) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned number = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const bool right = blockDim.x == block.x && blockDim.y == block.y && blockDim.z == block.z && gridDim.x == grid.x &&
                     gridDim.y == grid.y && gridDim.z == grid.z;
  atomicAdd(&out[number * blockDim.x * blockDim.y * blockDim.z + thread], right ? 1 : 1000);
}

TEST(every_thread_of_every_block_runs_once) {
  for (const char* order : kOrders) {
    Emulated device(order);
    const dim3 grid(3, 2, 4), block(5, 7, 2);
    Numbers<int> counts(device, std::vector<int>(24 * 70));
    SUCCEEDS(device.launch(indices, grid, block, 0, counts.data(), block, grid));
    CHECK(counts.read() == std::vector<int>(24 * 70, 1));
  }
}

__global__ void first_come(unsigned* at, unsigned* turns, int count) {
  if (static_cast<int>(threadIdx.x) < count) turns[threadIdx.x] = atomicAdd(at, 1u);
}

TEST(orders_differ_and_seeds_are_kept) {
  std::vector<std::vector<unsigned>> turns;
  for (const char* order :
       {"order=ascending", "order=descending", "order=shuffled seed=1", "order=shuffled seed=2", "order=shuffled seed=1"}) {
    Emulated device(order);
    Numbers<unsigned> at(device, std::vector<unsigned>{0}), turn(device, 100);
    SUCCEEDS(device.launch(first_come, 1, 100, 0, at.data(), turn.data(), 100));
    turns.push_back(turn.read());
  }
  for (unsigned i = 0; i < 100; i++) {
    CHECK_EQUAL(turns[0][i], i);
    CHECK_EQUAL(turns[1][i], 99 - i);
  }
  CHECK(turns[2] != turns[3] && turns[2] != turns[0] && turns[2] == turns[4]);
}

TEST(sums_over_blocks) {
  for (const char* order : kOrders) {
    Emulated device(order);
    for (int threads : {32, 64, 256, 1024}) {
      std::vector<float> values(10'000);
      double expected = 0;
      for (size_t i = 0; i < values.size(); i++) expected += values[i] = static_cast<float>(i % 17) - 3;
      Numbers<float> from(device, values), sum(device, std::vector<float>{0});
      SUCCEEDS(device.launch(sum_of_all, 4, threads, 32 * sizeof(float), from.data(), 10'000, sum.data()));
      CHECK_EQUAL(sum.read()[0], static_cast<float>(expected));
    }
  }
}

TEST(transposes_tiles) {
  for (const char* order : kOrders) {
    Emulated device(order);
    const int rows = 45, columns = 70;
    std::vector<float> values(rows * columns);
    for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(i);
    Numbers<float> from(device, values), to(device, values.size());
    SUCCEEDS(device.launch(transpose, dim3(3, 2), dim3(32, 8), 32 * 33 * sizeof(float), from.data(), to.data(), rows, columns));
    const std::vector<float> result = to.read();
    for (int row = 0; row < rows; row++)
      for (int column = 0; column < columns; column++) CHECK_EQUAL(result[column * rows + row], values[row * columns + column]);
  }
}

TEST(softmax_of_rows) {
  for (const char* order : kOrders) {
    Emulated device(order);
    const int rows = 5, columns = 333;
    std::vector<float> values(rows * columns);
    for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(i * 37 % 101) / 10;
    Numbers<float> from(device, values), to(device, values.size());
    SUCCEEDS(device.launch(softmax, rows, 128, (columns + 32) * sizeof(float), from.data(), to.data(), columns));
    const std::vector<float> result = to.read();
    for (int row = 0; row < rows; row++) {
      double sum = 0;
      for (int column = 0; column < columns; column++) sum += std::exp(values[row * columns + column]);
      for (int column = 0; column < columns; column++) {
        const double expected = std::exp(values[row * columns + column]) / sum;
        CHECK(std::abs(result[row * columns + column] - expected) <= 1e-6 * (expected + 1.0 / columns));
      }
    }
  }
}

TEST(vectors_and_bf16) {
  Emulated device;
  std::vector<float> values(1000);
  for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(i) / 8 - 20;
  Numbers<float> from(device, values);
  Numbers<__nv_bfloat16> to(device, values.size());
  SUCCEEDS(device.launch(swish, 2, 64, 0, from.data(), to.data(), 1000));
  const auto result = to.read();
  for (size_t i = 0; i < values.size(); i++) {
    const float expected = values[i] / (1 + std::exp(-values[i]));
    CHECK(std::abs(__bfloat162float(result[i]) - expected) <= std::abs(expected) / 128 + 1e-30);
  }
}

struct Pair {
  float first;
  double second;
};
__global__ void takes_a_struct(Pair pair, float* out) { out[threadIdx.x] = pair.first + static_cast<float>(pair.second); }

TEST(arguments_are_copied_and_converted) {
  Emulated device;
  Numbers<float> out(device, 2);
  SUCCEEDS(device.launch(takes_a_struct, 1, 2, 0, Pair{1, 2}, out.data()));
  CHECK(out.read() == (std::vector<float>{3, 3}));
}

__global__ void uses_much_stack(int* out) {
  volatile char room[200'000];
  room[threadIdx.x] = static_cast<char>(threadIdx.x);
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = room[threadIdx.x];
}

TEST(threads_have_stacks_of_their_own) {
  for (const char* order : kOrders) {
    Emulated device(order);
    Numbers<int> out(device, 200);
    SUCCEEDS(device.launch(uses_much_stack, 2, 100, 0, out.data()));
    const auto result = out.read();
    for (int i = 0; i < 200; i++) CHECK_EQUAL(result[i], i % 100);
  }
}

template <class T, int N>
__global__ void templated(T* out) {
  if (threadIdx.x == 1) __trap();
  out[0] = N;
}

TEST(reports_name_kernel_block_and_thread) {
  Emulated device;
  Numbers<float> out(device, 1);
  const std::string report = device.report_of(templated<float, 3>, dim3(1, 2), 4, 0, out.data());
  CHECK_CONTAINS(report, "templated<float, 3>(float*)");
  CHECK_CONTAINS(report, "block (0, 0, 0), thread (1, 0, 0)");
  CHECK_CONTAINS(report, "kernels_test.cu:");
}

}  // namespace
}  // namespace sidetune::testing
