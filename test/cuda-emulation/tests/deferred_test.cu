// Streams that work when somebody waits for them.
#include <cmath>

#include "emulated.h"

namespace sidetune::testing {
namespace {

__global__ void fill(float* to, float value) { to[threadIdx.x] = value; }
__global__ void add(const float* from, float* to) { to[threadIdx.x] += from[threadIdx.x]; }
__global__ void fails() { __trap(); }

struct TwoStreams {
  Emulated device{"streams=deferred"};
  cudaStream_t newer = nullptr;
  cudaEvent_t event = nullptr;
  Numbers<float> x{device, std::vector<float>(4, 1)}, y{device, std::vector<float>(4, 10)};

  TwoStreams() {
    SUCCEEDS(cudaStreamCreateWithFlags(&newer, cudaStreamNonBlocking));
    SUCCEEDS(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  ~TwoStreams() {
    cudaStreamDestroy(newer);
    cudaEventDestroy(event);
  }
  template <class... P, class... A>
  void launch(cudaStream_t stream, void (*kernel)(P...), A... arguments) {
    cudaLaunchConfig_t config = {};
    config.blockDim = 4;
    config.stream = stream;
    SUCCEEDS(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
  }
};

TEST(deferred_work_is_done_in_order_when_waited_for) {
  TwoStreams t;
  t.launch(t.device.stream, fill, t.x.data(), 2);
  t.launch(t.device.stream, add, t.x.data(), t.y.data());
  CHECK_EQUAL(cudaStreamQuery(t.device.stream), cudaErrorNotReady);
  CHECK(t.y.read() == std::vector<float>(4, 12));
  CHECK_EQUAL(cudaStreamQuery(t.device.stream), cudaSuccess);
}

TEST(who_asks_until_it_is_ready_comes_to_an_end) {
  TwoStreams t;
  t.launch(t.device.stream, fill, t.x.data(), 2);
  SUCCEEDS(cudaEventRecord(t.event, t.device.stream));
  int questions = 0;
  while (cudaEventQuery(t.event) == cudaErrorNotReady) questions++;
  CHECK_EQUAL(questions, 2);
  t.launch(t.device.stream, fill, t.x.data(), 2);
  CHECK_EQUAL(cudaEventQuery(t.event), cudaSuccess);  // it was recorded before
}

TEST(a_stream_that_does_not_wait_for_another_is_seen) {
  TwoStreams t;
  t.launch(t.device.stream, fill, t.x.data(), 2);
  t.launch(t.newer, add, t.x.data(), t.y.data());
  SUCCEEDS(cudaStreamSynchronize(t.newer));
  CHECK(t.y.read() == std::vector<float>(4, 11));  // of the old x
}

TEST(all_streams_work_newest_first) {
  TwoStreams t;
  t.launch(t.device.stream, fill, t.x.data(), 2);
  t.launch(t.newer, add, t.x.data(), t.y.data());
  SUCCEEDS(cudaDeviceSynchronize());
  CHECK(t.y.read() == std::vector<float>(4, 11));
}

TEST(events_put_streams_in_order) {
  for (bool all : {false, true}) {
    TwoStreams t;
    SUCCEEDS(cudaStreamWaitEvent(t.newer, t.event));  // never recorded: nothing to wait for
    t.launch(t.device.stream, fill, t.x.data(), 2);
    SUCCEEDS(cudaEventRecord(t.event, t.device.stream));
    t.launch(t.device.stream, fill, t.x.data(), 3);
    SUCCEEDS(cudaStreamWaitEvent(t.newer, t.event));
    t.launch(t.newer, add, t.x.data(), t.y.data());
    SUCCEEDS(all ? cudaDeviceSynchronize() : cudaStreamSynchronize(t.newer));
    CHECK(t.y.read() == std::vector<float>(4, 12));
    CHECK(t.x.read() == std::vector<float>(4, 3));
  }
}

TEST(an_event_is_waited_for_as_it_was_recorded_then) {
  TwoStreams t;
  t.launch(t.device.stream, fill, t.x.data(), 2);
  SUCCEEDS(cudaEventRecord(t.event, t.device.stream));
  SUCCEEDS(cudaStreamWaitEvent(t.newer, t.event));
  t.launch(t.device.stream, fill, t.x.data(), 3);
  SUCCEEDS(cudaEventRecord(t.event, t.device.stream));
  t.launch(t.newer, add, t.x.data(), t.y.data());
  SUCCEEDS(cudaStreamSynchronize(t.newer));
  CHECK(t.y.read() == std::vector<float>(4, 12));
  SUCCEEDS(cudaEventSynchronize(t.event));
  CHECK_EQUAL(cudaStreamQuery(t.device.stream), cudaSuccess);
}

TEST(a_result_is_not_there_before_its_copy_is_waited_for) {
  TwoStreams t;
  std::vector<float> host(4, 7);
  SUCCEEDS(cudaMemcpyAsync(host.data(), t.x.data(), 16, cudaMemcpyDeviceToHost, t.device.stream));
  CHECK(std::isnan(host[0]));
  SUCCEEDS(cudaStreamSynchronize(t.device.stream));
  CHECK_EQUAL(host[0], 1.0f);
}

TEST(host_memory_that_changes_under_a_copy_is_reported) {
  {
    TwoStreams t;
    std::vector<float> host(4, 7);
    SUCCEEDS(cudaMemcpyAsync(t.x.data(), host.data(), 16, cudaMemcpyHostToDevice, t.device.stream));
    host[1] = 8;
    CHECK_CONTAINS(t.device.report(), "the source was changed before the copy was done");
  }
  TwoStreams t;
  std::vector<float> host(4, 7);
  SUCCEEDS(cudaMemcpyAsync(host.data(), t.x.data(), 16, cudaMemcpyDeviceToHost, t.device.stream));
  host[1] = 8;
  CHECK_CONTAINS(t.device.report(), "the destination was written before the copy was done");
}

TEST(freeing_memory_waits_for_what_uses_it) {
  TwoStreams t;
  float* scratch = nullptr;
  SUCCEEDS(cudaMalloc(&scratch, 16));
  t.launch(t.device.stream, fill, scratch, 5);
  t.launch(t.device.stream, add, scratch, t.y.data());
  SUCCEEDS(cudaFree(scratch));
  CHECK(t.y.read() == std::vector<float>(4, 15));
}

TEST(a_late_mistake_is_found_where_it_is_waited_for_and_ends_the_queue) {
  TwoStreams t;
  t.launch(t.device.stream, fill, t.x.data(), 2);
  t.launch(t.device.stream, fails);
  t.launch(t.device.stream, fill, t.x.data(), 3);
  SUCCEEDS(cudaEventRecord(t.event, t.device.stream));
  CHECK_CONTAINS(t.device.report(), "fails");
  float found = 0;
  std::memcpy(&found, t.x.data(), sizeof found);  // the emulation's memory can be looked at
  CHECK_EQUAL(found, 2.0f);
  CHECK_EQUAL(cudaStreamSynchronize(t.device.stream), cudaErrorLaunchFailure);
}

}  // namespace
}  // namespace sidetune::testing
