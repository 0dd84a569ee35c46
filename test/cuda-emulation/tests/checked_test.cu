// What the check build finds by watching loads and stores: each of these kernels is wrong, and most compute the right numbers.
#include <cuda_bf16.h>

#include <fstream>

#include "emulated.h"
#include "sample_kernels.cuh"

extern "C" void sidetune_emulation_traffic(const char* part, long long* read, long long* written);
extern "C" void sidetune_emulation_raw_traffic(const char* part, long long* read, long long* written);
extern "C" void sidetune_emulation_reset_traffic();

namespace sidetune::testing {
namespace {

__device__ float* shared_floats() { return reinterpret_cast<float*>(sidetune_shared); }

// Shared memory of the test kernels is written once before they go wrong.
__device__ void fill_shared() {
  shared_floats()[threadIdx.x] = 0;
  __syncthreads();
}

// Runs the kernel on 64 floats of 1 in each order; every run must give the report.
template <class... A>
void expect(const std::string& part, void (*kernel)(float*, A...), dim3 grid, dim3 block, A... arguments) {
  for (const char* order : kOrders) {
    Emulated device(order);
    Numbers<float> data(device, std::vector<float>(64, 1));
    const std::string report = device.report_of(kernel, grid, block, 256, data.data(), arguments...);
    CHECK_CONTAINS(report, part);
    CHECK_CONTAINS(report, "checked_test.cu:");
  }
}

__global__ void shared_race(float* data) {
  fill_shared();
  shared_floats()[threadIdx.x] = data[threadIdx.x];
  data[threadIdx.x] = shared_floats()[(threadIdx.x + 32) % 64];
}
__global__ void write_after_read(float* data) {
  shared_floats()[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  const float other = shared_floats()[(threadIdx.x + 32) % 64];
  shared_floats()[threadIdx.x] = other;
}
__global__ void write_after_many_reads(float* data) {
  if (threadIdx.x == 40) shared_floats()[0] = data[0];
  __syncthreads();
  data[threadIdx.x] = shared_floats()[0];
  if (threadIdx.x == 63) shared_floats()[0] = 2;
}
__global__ void two_write(float*) { shared_floats()[0] = 1; }
__global__ void warp_race(float* data) {
  fill_shared();
  shared_floats()[threadIdx.x] = data[threadIdx.x];
  data[threadIdx.x] = shared_floats()[threadIdx.x ^ 1];
}
__global__ void shuffles_order_nothing(float* data) {
  fill_shared();
  shared_floats()[threadIdx.x] = data[threadIdx.x];
  __shfl_xor_sync(0xffffffffu, 1, 1);
  data[threadIdx.x] = shared_floats()[threadIdx.x ^ 1];
}
__global__ void half_of_a_warp_syncs(float* data) {
  fill_shared();
  shared_floats()[threadIdx.x] = data[threadIdx.x];
  if (threadIdx.x < 16)
    __syncwarp(0xffffu);
  else
    __syncwarp(0xffff0000u);
  data[threadIdx.x] = shared_floats()[threadIdx.x ^ 16];
}

TEST(races_in_shared_memory) {
  expect("with no barrier in between", shared_race, 1, 64);
  expect("with no barrier in between", write_after_read, 1, 64);
  expect("with no barrier in between", write_after_many_reads, 1, 64);
  expect("with no barrier in between", two_write, 1, 2);
  expect("with no barrier in between", warp_race, 1, 32);
  expect("with no barrier in between", shuffles_order_nothing, 1, 32);
  expect("with no barrier in between", half_of_a_warp_syncs, 1, 32);
}

__global__ void blocks_race(float* data) {
  if (threadIdx.x == 0) data[0] = static_cast<float>(blockIdx.x);
}
__global__ void reads_what_another_block_writes(float* data) { data[blockIdx.x * 32 + threadIdx.x] = data[threadIdx.x]; }
__global__ void threads_race(float* data) { data[threadIdx.x] = data[63 - threadIdx.x]; }
__global__ void adds_without_atomics(float* data) { data[0] += 1; }
__global__ void adds_half_with_atomics(float* data) {
  if (threadIdx.x % 2)
    atomicAdd(data, 1.0f);
  else
    data[0] += 1;
}

TEST(races_in_global_memory) {
  expect("of another block", blocks_race, 2, 32);
  expect("of another block", reads_what_another_block_writes, 2, 32);
  expect("with no barrier in between", threads_race, 1, 64);
  expect("with no barrier in between", adds_without_atomics, 1, 64);
  expect("with no barrier in between", adds_half_with_atomics, 1, 64);
}

__global__ void reads_at(float* data, int offset) { data[0] = data[offset]; }
__global__ void writes_at(float* data, int offset) { data[offset] = 1; }
__global__ void writes_shared_at(float* data, int offset) { shared_floats()[offset] = data[0]; }
__global__ void reads_shared_at(float* data, int offset) {
  shared_floats()[threadIdx.x] = 1;
  data[0] = shared_floats()[offset];
}

TEST(memory_out_of_bounds) {
  expect("reads 4 bytes 0 bytes past the end of an allocation of 256 bytes", reads_at, 1, 1, 64);
  expect("writes 4 bytes 0 bytes past the end", writes_at, 1, 1, 64);
  expect("writes 4 bytes 40 bytes past the end", writes_at, 1, 1, 74);
  expect("writes 4 bytes 4 bytes before the beginning", writes_at, 1, 1, -1);
  expect("are no memory of the device", writes_at, 1, 1, 1 << 20);
  expect("past the 256 of the launch", writes_shared_at, 1, 1, 64);
  expect("past the 256 of the launch", reads_shared_at, 1, 1, 64);
}

__global__ void vector_at(float* data, int offset) { *reinterpret_cast<float4*>(data + offset) = make_float4(1, 2, 3, 4); }
__global__ void vector_from(float* data, int offset) {
  const float4 four = *reinterpret_cast<const float4*>(data + offset);
  data[0] = four.x;
}
__global__ void number_at(float* data, int offset) { *reinterpret_cast<float*>(reinterpret_cast<char*>(data) + offset) = 1; }
__global__ void pair_at(float* data, int offset) {
  *reinterpret_cast<__nv_bfloat162*>(reinterpret_cast<__nv_bfloat16*>(data) + offset) = __floats2bfloat162_rn(1, 2);
}

TEST(misaligned_access) {
  expect("no multiple of it", vector_at, 1, 1, 2);
  expect("no multiple of it", vector_from, 1, 1, 1);
  expect("no multiple of it", number_at, 1, 1, 2);
  expect("no multiple of it", pair_at, 1, 1, 1);
  expect("past the end", vector_at, 1, 1, 64);
}

__global__ void reads_shared_unwritten(float* data) { data[threadIdx.x] = shared_floats()[threadIdx.x]; }
__global__ void reads(const float* from, float* to) { to[threadIdx.x] = from[threadIdx.x] * 0; }

TEST(memory_that_was_never_written) {
  expect("which its block never wrote", reads_shared_unwritten, 1, 32);
  Emulated device;
  Numbers<float> from(device, 64), to(device, 64);
  SUCCEEDS(cudaMemsetAsync(from.data(), 0, 63 * sizeof(float), device.stream));
  SUCCEEDS(cudaMemcpyAsync(to.data(), from.data(), 256, cudaMemcpyDeviceToDevice, device.stream));
  SUCCEEDS(device.launch(reads, 1, 63, 0, to.data(), from.data()));
  CHECK_EQUAL(device.report(), "cudaSuccess");
  CHECK_CONTAINS(device.report_of(reads, 1, 64, 0, to.data(), from.data()), "which was never written");  // and that was copied
}

TEST(a_fill_with_nan_is_no_content) {
  for (size_t count : {64, 1000, 100'000}) {
    Emulated device;
    Numbers<float> from(device, std::vector<float>(count, 1)), to(device, 64);
    SUCCEEDS(cudaMemsetAsync(from.data() + 1, 0xff, (count - 2) * sizeof(float), device.stream));
    SUCCEEDS(device.launch(reads, 1, 1, 0, from.data(), to.data()));
    SUCCEEDS(device.launch(reads, 1, 1, 0, from.data() + count - 1, to.data()));
    CHECK_EQUAL(device.report(), "cudaSuccess");
    CHECK_CONTAINS(device.report_of(reads, 1, 1, 0, from.data() + count - 2, to.data()), "which was never written");
  }
}

TEST(shared_memory_of_another_block_is_not_there) {
  Emulated device;
  Numbers<float> data(device, std::vector<float>(64, 1));
  SUCCEEDS(device.launch(writes_shared_at, 1, 1, 256, data.data(), 0));
  CHECK_CONTAINS(device.report_of(reads_shared_unwritten, 1, 1, 256, data.data()), "which its block never wrote");
}

TEST(copies_that_are_not_waited_for) {
  for (int left : {0, 1, 2}) {
    Emulated device;
    Numbers<float> from(device, std::vector<float>(64 * 4, 1)), to(device, 64 * 4);
    const auto kernel = left == 0 ? copy_in_groups<0> : left == 1 ? copy_in_groups<1> : copy_in_groups<2>;
    const std::string report = device.report_of(kernel, 1, 32, 1024, as_vectors(from), as_vectors(to), 60);
    if (left == 0)
      CHECK_EQUAL(report, "cudaSuccess");
    else
      CHECK_CONTAINS(report, "which its block never wrote");
  }
}

__global__ void reads_the_host(const float* from, float* to) { *to = *from; }

TEST(memory_of_the_host) {
  static float on_the_host = 1;
  Emulated device;
  Numbers<float> to(device, 1);
  CHECK_CONTAINS(device.report_of(reads_the_host, 1, 1, 0, &on_the_host, to.data()), "are no memory of the device");
}

__global__ void accumulates(float* data, unsigned* count) {
  atomicAdd(data, 1.0f);
  atomicAdd(count, 1u);
}

TEST(what_is_right_is_not_reported) {
  for (const char* order : kOrders) {
    Emulated device(order);
    Numbers<float> sum(device, std::vector<float>{0});
    Numbers<unsigned> count(device, std::vector<unsigned>{0});
    SUCCEEDS(device.launch(accumulates, 3, 64, 0, sum.data(), count.data()));
    CHECK_EQUAL(device.report(), "cudaSuccess");
  }
}

__global__ void add_neighbours(const float* from, float* to) { to[threadIdx.x] = from[threadIdx.x] + from[threadIdx.x + 1]; }

TEST(traffic_is_counted) {
  Emulated device;
  Numbers<float> from(device, std::vector<float>(33, 1)), to(device, 32);
  sidetune_emulation_reset_traffic();
  for (int launches = 1; launches <= 2; launches++) {
    SUCCEEDS(device.launch(add_neighbours, 1, 32, 0, from.data(), to.data()));
    long long read = 0, written = 0;
    sidetune_emulation_traffic("add_neighbours", &read, &written);
    CHECK_EQUAL(read, launches * 33 * 4);
    CHECK_EQUAL(written, launches * 32 * 4);
    sidetune_emulation_raw_traffic("add_neighbours", &read, &written);
    CHECK_EQUAL(read, launches * 64 * 4);
    CHECK_EQUAL(written, launches * 32 * 4);
    sidetune_emulation_traffic("another", &read, &written);
    CHECK_EQUAL(read + written, 0);
  }
}

// Runs each sample kernel that meets at barriers, and says whether one was reported.
bool is_reported(const std::string& configuration) {
  bool is = false;
  const auto run = [&](auto kernel, dim3 blocks, dim3 threads, size_t shared_bytes, auto... arguments) {
    Emulated device(configuration.c_str());
    Numbers<float> from(device, std::vector<float>(4096, 1)), to(device, std::vector<float>(4096));
    is |= device.report_of(kernel, blocks, threads, shared_bytes, from.data(), to.data(), arguments...) != "cudaSuccess";
  };
  run(transpose, dim3(3, 2), dim3(32, 8), 32 * 33 * sizeof(float), 45, 70);
  run(softmax, 5, 128, (333 + 32) * sizeof(float), 333);
  {
    Emulated device(configuration.c_str());
    Numbers<int> from(device, std::vector<int>(128)), to(device, 128);
    is |= device.report_of(reverse_in_warps, 1, 128, 128 * sizeof(int), from.data(), to.data()) != "cudaSuccess";
  }
  {
    Emulated device(configuration.c_str());
    Numbers<float> from(device, std::vector<float>(256)), to(device, 256);
    const auto vectors = [](Numbers<float>& numbers) { return reinterpret_cast<float4*>(numbers.data()); };
    is |= device.report_of(copy_in_groups<0>, 1, 32, 1024, vectors(from), vectors(to), 60) != "cudaSuccess";
  }
  return is;
}

TEST(each_barrier_of_the_samples_is_needed) {
  std::ifstream samples(SIDETUNE_SAMPLES);
  CHECK(samples.good());
  CHECK(!is_reported(""));
  int barriers = 0;
  std::string text;
  for (int line = 1; std::getline(samples, text); line++) {
    if (text.find("__syncthreads();") == std::string::npos && text.find("__syncwarp();") == std::string::npos) continue;
    barriers++;
    if (!is_reported("without=sample_kernels.cuh:" + std::to_string(line))) fail("sample_kernels.cuh", line, "is not missed");
  }
  CHECK_EQUAL(barriers, 6);
}

TEST(reports_name_the_other_line) {
  Emulated device;
  Numbers<float> data(device, std::vector<float>(64, 1));
  const std::string report = device.report_of(warp_race, 1, 32, 256, data.data());
  CHECK_CONTAINS(report, "writes 4 bytes of shared memory (offset ");
  CHECK_CONTAINS(report, "read at ");
  size_t places = 0;
  for (size_t at = report.find("checked_test.cu:"); at != std::string::npos; at = report.find("checked_test.cu:", at + 1))
    places++;
  CHECK_EQUAL(places, 2u);
}

}  // namespace
}  // namespace sidetune::testing
