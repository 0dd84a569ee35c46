#include <cmath>
#include <cstring>

#include "emulated.h"

namespace sidetune::testing {
namespace {

TEST(memory_is_nan_at_first) {
  Emulated device("memory=8589934592");
  for (size_t count : {size_t{1}, size_t{1000}, size_t{3} << 20}) {
    Numbers<float> numbers(device, count);
    CHECK_EQUAL(reinterpret_cast<uintptr_t>(numbers.data()) % 256, 0u);
    for (float value : numbers.read()) {
      if (!std::isnan(value)) fail(__FILE__, __LINE__, "a number in new memory");
    }
  }
}

TEST(memory_has_the_size_it_poses_with) {
  Emulated device("memory=1000000");
  size_t free = 0, total = 0;
  void *first = nullptr, *second = nullptr;
  SUCCEEDS(cudaMalloc(&first, 600'000));
  SUCCEEDS(cudaMemGetInfo(&free, &total));
  CHECK_EQUAL(total, 1'000'000u);
  CHECK_EQUAL(free, 400'000u);
  CHECK_EQUAL(cudaMalloc(&second, 400'001), cudaErrorMemoryAllocation);
  CHECK(second == nullptr);
  CHECK_EQUAL(cudaGetLastError(), cudaErrorMemoryAllocation);
  CHECK_EQUAL(cudaGetLastError(), cudaSuccess);  // it does not stay
  SUCCEEDS(cudaMalloc(&second, 400'000));
  SUCCEEDS(cudaFree(first));
  SUCCEEDS(cudaFree(second));
  SUCCEEDS(cudaFree(nullptr));
}

TEST(large_memory_is_only_address_space) {
  Emulated device("memory=1099511627776");
  void* data = nullptr;
  SUCCEEDS(cudaMalloc(&data, size_t{64} << 30));
  SUCCEEDS(cudaMemsetAsync(static_cast<char*>(data) + (size_t{63} << 30), 1, 100, device.stream));
  std::vector<unsigned char> read(102);
  SUCCEEDS(cudaMemcpyAsync(read.data(), static_cast<char*>(data) + (size_t{63} << 30) - 1, 102, cudaMemcpyDeviceToHost,
                           device.stream));
  CHECK(read[0] == 0xff && read[1] == 1 && read[100] == 1 && read[101] == 0xff);
  SUCCEEDS(cudaFree(data));
}

TEST(copies_go_every_way) {
  Emulated device;
  Numbers<int> a(device, std::vector<int>{1, 2, 3, 4}), b(device, 4);
  int* pinned = nullptr;
  SUCCEEDS(cudaMallocHost(&pinned, 16));
  SUCCEEDS(cudaMemcpyAsync(b.data(), a.data(), 16, cudaMemcpyDeviceToDevice, device.stream));
  SUCCEEDS(cudaMemcpyAsync(pinned, b.data(), 16, cudaMemcpyDefault, device.stream));
  SUCCEEDS(cudaStreamSynchronize(device.stream));
  CHECK(pinned[0] == 1 && pinned[3] == 4);
  SUCCEEDS(cudaMemsetAsync(a.data() + 1, 0, 8, device.stream));
  CHECK(a.read() == (std::vector<int>{1, 0, 0, 4}));
  SUCCEEDS(cudaFreeHost(pinned));
}

// What is reported when the call is made with memory of 64 bytes on the device.
template <class Call>
std::string report_of(const Call& call) {
  Emulated device;
  Numbers<char> numbers(device, 64);
  call(numbers.data(), device.stream);
  return device.report();
}

TEST(wrong_ranges_and_directions_are_reported) {
  char host[128] = {};
  const auto copy = [&host](int to, int bytes, cudaMemcpyKind kind) {
    return report_of([&](char* data, cudaStream_t stream) { cudaMemcpyAsync(data + to, host, bytes, kind, stream); });
  };
  CHECK_EQUAL(copy(0, 64, cudaMemcpyHostToDevice), "cudaSuccess");
  CHECK_CONTAINS(copy(1, 64, cudaMemcpyHostToDevice), "destination is out of bounds: bytes 1 to 65 of an allocation of 64");
  CHECK_CONTAINS(copy(0, 64, cudaMemcpyDeviceToHost), "destination is device memory");
  CHECK_CONTAINS(copy(0, 64, cudaMemcpyDeviceToDevice), "source is not in device memory");
  CHECK_CONTAINS(
      report_of([](char* data, cudaStream_t stream) { cudaMemcpyAsync(data, data + 8, 16, cudaMemcpyDeviceToDevice, stream); }),
      "overlap");
  CHECK_CONTAINS(report_of([](char* data, cudaStream_t stream) { cudaMemsetAsync(data, 0, 65, stream); }), "out of bounds");
  CHECK_CONTAINS(report_of([](char* data, cudaStream_t) { cudaMemsetAsync(data, 0, 64, nullptr); }), "uses the default stream");
  CHECK_CONTAINS(
      report_of([&host](char* data, cudaStream_t) { cudaMemcpyAsync(data, host, 64, cudaMemcpyHostToDevice, nullptr); }),
      "uses the default stream");
  CHECK_CONTAINS(report_of([](char*, cudaStream_t stream) {
                   char* pinned = nullptr;
                   cudaMallocHost(&pinned, 16);
                   char there[32];
                   cudaMemcpyAsync(there, pinned, 32, cudaMemcpyHostToHost, stream);
                 }),
                 "ends outside of its pinned allocation");
}

TEST(wrong_frees_are_reported) {
  const auto freed = [](auto free, int offset) { return report_of([&](char* data, cudaStream_t) { free(data + offset); }); };
  CHECK_CONTAINS(freed(cudaFree, 8), "is not the beginning");
  CHECK_CONTAINS(freed(cudaFreeHost, 0), "other kind of memory");
  CHECK_CONTAINS(report_of([](char*, cudaStream_t) {
                   void* data = nullptr;
                   cudaMalloc(&data, 4);
                   cudaFree(data);
                   cudaFree(data);
                 }),
                 "was freed before");
}

TEST(what_is_left_behind_is_reported) {
  { Emulated device; }
  void* data = nullptr;
  SUCCEEDS(cudaMalloc(&data, 100));
  CHECK_EQUAL(cudaDeviceReset(), cudaErrorLaunchFailure);
  CHECK_CONTAINS(std::string(cudaGetErrorString(cudaErrorLaunchFailure)), "left behind 100 bytes in 1 allocations");
  SUCCEEDS(cudaDeviceReset());
  CHECK_EQUAL(cudaGetLastError(), cudaSuccess);
}

}  // namespace
}  // namespace sidetune::testing
