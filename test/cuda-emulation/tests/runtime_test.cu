#include <thread>

#include "emulated.h"

namespace sidetune::testing {
namespace {

__global__ void nothing() {}
__global__ void fill(int* to, int value) { to[blockIdx.x * blockDim.x + threadIdx.x] = value; }

TEST(properties_are_those_of_the_configuration) {
  cudaDeviceProp p;
  {
    Emulated device;
    SUCCEEDS(cudaGetDeviceProperties(&p, 0));
    CHECK(p.multiProcessorCount == 4 && p.major == 8 && p.minor == 0 && p.sharedMemPerBlockOptin == 99u << 10);
    CHECK(p.sharedMemPerBlock == 48u << 10 && p.warpSize == 32 && p.maxThreadsPerBlock == 1024 &&
          p.totalGlobalMem == size_t{4} << 30);
    CHECK_EQUAL(cudaGetDeviceProperties(&p, 1), cudaErrorInvalidDevice);
    CHECK_EQUAL(cudaSetDevice(1), cudaErrorInvalidDevice);
  }
  Emulated device("sms=132 shared=227 capability=9.0");
  SUCCEEDS(cudaGetDeviceProperties(&p, 0));
  CHECK(p.multiProcessorCount == 132 && p.major == 9 && p.sharedMemPerBlockOptin == 227u << 10);
}

TEST(a_wrong_configuration_is_refused) {
  const struct {
    const char *text, *part;
  } cases[] = {{"sm=3", "unknown key 'sm'"},
               {"sms=0", "'sms' is '0'"},
               {"sms=3x", "'sms' is '3x'"},
               {"order=random", "'order' is 'random'"},
               {"shared=300", "'shared' is '300'"},
               {"capability=8", "'capability' is '8'"},
               {"fail=cudaMalloc", "'fail' is"},
               {"without=here", "'without' is 'here', expected FILE:LINE"},
               {"fail=cudaMalloc:0:cudaErrorUnknown", "'fail' is '0'"},
               {"fail=any:1:cudaErrorOfMine", "'fail' is 'any:1:cudaErrorOfMine', expected the name of an error"}};
  for (const auto& [text, part] : cases) {
    setenv("SIDETUNE_EMULATION", text, 1);
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    CHECK_EQUAL(error, cudaErrorLaunchFailure);
    CHECK_CONTAINS(std::string(cudaGetErrorString(error)), part);
  }
  Emulated device;  // and the next one works
}

TEST(launches_have_limits) {
  Emulated device("shared=100");
  CHECK_EQUAL(device.launch(nothing, 0, 1, 0), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(device.launch(nothing, 1, 0, 0), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(device.launch(nothing, 1, 1025, 0), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(device.launch(nothing, 1, dim3(32, 33), 0), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(device.launch(nothing, 1, dim3(1, 1, 65), 0), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(device.launch(nothing, dim3(1, 65536), 1, 0), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(device.launch(nothing, 1, 1, (48 << 10) + 1), cudaErrorInvalidValue);
  CHECK_EQUAL(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, (100 << 10) + 1), cudaErrorInvalidValue);
  SUCCEEDS(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10));
  SUCCEEDS(device.launch(nothing, 1, 1, 100 << 10));
  CHECK_EQUAL(device.launch(nothing, 1, 1, (100 << 10) + 1), cudaErrorInvalidValue);
  SUCCEEDS(device.launch(nothing, dim3(100'000, 2), dim3(1, 1, 2), 0));
  cudaFuncAttributes attributes;
  SUCCEEDS(cudaFuncGetAttributes(&attributes, nothing));
  CHECK(attributes.maxThreadsPerBlock == 1024 && attributes.maxDynamicSharedSizeBytes == 100 << 10);
  CHECK_EQUAL(cudaGetLastError(), cudaErrorInvalidValue);
}

TEST(the_default_stream_is_refused) {
  Emulated device;
  cudaLaunchConfig_t config = {};
  CHECK_EQUAL(cudaLaunchKernelEx(&config, nothing), cudaErrorLaunchFailure);
  CHECK_CONTAINS(device.report(), "cudaLaunchKernelEx: uses the default stream");
}

TEST(destroyed_streams_and_events_are_refused) {
  {
    Emulated device;
    cudaStream_t other = nullptr;
    SUCCEEDS(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    SUCCEEDS(cudaStreamDestroy(other));
    CHECK_EQUAL(cudaStreamSynchronize(other), cudaErrorLaunchFailure);
    CHECK_CONTAINS(device.report(), "the stream does not exist or was destroyed");
  }
  Emulated device;
  cudaEvent_t event = nullptr;
  SUCCEEDS(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  SUCCEEDS(cudaEventDestroy(event));
  CHECK_EQUAL(cudaEventRecord(event, device.stream), cudaErrorLaunchFailure);
  CHECK_CONTAINS(device.report(), "the event does not exist or was destroyed");
}

TEST(events_measure) {
  Emulated device;
  cudaEvent_t start = nullptr, end = nullptr, untimed = nullptr;
  SUCCEEDS(cudaEventCreateWithFlags(&start, cudaEventDefault));
  SUCCEEDS(cudaEventCreateWithFlags(&end, cudaEventBlockingSync));
  SUCCEEDS(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
  float milliseconds = -1;
  CHECK_EQUAL(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorInvalidResourceHandle);  // not recorded
  SUCCEEDS(cudaEventRecord(start, device.stream));
  SUCCEEDS(device.launch(nothing, 1000, 64, 0));
  SUCCEEDS(cudaEventRecord(end, device.stream));
  SUCCEEDS(cudaEventRecord(untimed, device.stream));
  SUCCEEDS(cudaEventSynchronize(end));
  SUCCEEDS(cudaEventQuery(end));
  SUCCEEDS(cudaEventElapsedTime(&milliseconds, start, end));
  CHECK(milliseconds > 0 && milliseconds < 10'000);
  CHECK_EQUAL(cudaEventElapsedTime(&milliseconds, start, untimed), cudaErrorInvalidResourceHandle);
  for (cudaEvent_t event : {start, end, untimed}) SUCCEEDS(cudaEventDestroy(event));
}

TEST(calls_fail_where_asked) {
  {
    Emulated device("fail=cudaMalloc:2:cudaErrorMemoryAllocation");
    void *first = nullptr, *second = nullptr;
    SUCCEEDS(cudaMalloc(&first, 4));
    CHECK_EQUAL(cudaMalloc(&second, 4), cudaErrorMemoryAllocation);
    SUCCEEDS(cudaMalloc(&second, 4));
    SUCCEEDS(cudaFree(first));
    SUCCEEDS(cudaFree(second));
    CHECK_EQUAL(cudaGetLastError(), cudaErrorMemoryAllocation);
  }
  {
    Emulated device("fail=cudaLaunchKernelEx:1:cudaErrorIllegalAddress");
    CHECK_EQUAL(device.launch(nothing, 1, 1, 0), cudaErrorIllegalAddress);
    CHECK_EQUAL(device.launch(nothing, 1, 1, 0), cudaErrorIllegalAddress);  // it stays
    CHECK_EQUAL(cudaStreamSynchronize(device.stream), cudaErrorIllegalAddress);
    CHECK_EQUAL(cudaGetLastError(), cudaErrorIllegalAddress);
    CHECK_EQUAL(cudaPeekAtLastError(), cudaErrorIllegalAddress);
  }
  Emulated device("fail=any:4:cudaErrorUnknown");  // after the count and the stream
  SUCCEEDS(device.launch(nothing, 1, 1, 0));
  CHECK_EQUAL(cudaStreamSynchronize(device.stream), cudaErrorUnknown);
}

TEST(errors_have_names_and_texts) {
  CHECK_EQUAL(std::string(cudaGetErrorName(cudaErrorIllegalAddress)), "cudaErrorIllegalAddress");
  CHECK_EQUAL(std::string(cudaGetErrorString(cudaErrorMemoryAllocation)), "out of memory");
  CHECK_EQUAL(std::string(cudaGetErrorName(static_cast<cudaError_t>(12345))), "unrecognized error code");
}

TEST(threads_of_the_system_launch_at_once) {
  Emulated device;
  std::vector<std::thread> threads;
  int wrong[4] = {};
  for (int index = 0; index < 4; index++) {
    threads.emplace_back([index, &wrong] {
      cudaStream_t stream = nullptr;
      cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
      for (int round = 0; round < 20; round++) {
        int *data = nullptr, *other = nullptr;
        cudaMalloc(&other, static_cast<size_t>(1 + round * 997 % 4000));  // places change hands, and sizes
        cudaFree(other);
        cudaMalloc(&data, 6400 * sizeof(int));
        cudaLaunchConfig_t config = {};
        config.gridDim = 100;
        config.blockDim = 64;
        config.stream = stream;
        cudaLaunchKernelEx(&config, fill, data, index * 100 + round);
        std::vector<int> read(6400);
        cudaMemcpyAsync(read.data(), data, read.size() * sizeof(int), cudaMemcpyDeviceToHost, stream);
        cudaStreamSynchronize(stream);
        for (int value : read) wrong[index] += value != index * 100 + round;
        cudaFree(data);
      }
      cudaStreamDestroy(stream);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int count : wrong) CHECK_EQUAL(count, 0);
}

}  // namespace
}  // namespace sidetune::testing
