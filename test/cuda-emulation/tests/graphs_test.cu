#include "emulated.h"

namespace sidetune::testing {
namespace {

__global__ void add(int* to, int value) { to[threadIdx.x] += value; }

// Captures what `queue` queues.
template <class Queue>
cudaGraphExec_t captured(Emulated& device, const Queue& queue) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  SUCCEEDS(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal));
  queue();
  SUCCEEDS(cudaStreamEndCapture(device.stream, &graph));
  SUCCEEDS(cudaGraphInstantiate(&executable, graph));
  SUCCEEDS(cudaGraphDestroy(graph));
  return executable;
}

TEST(a_graph_is_done_at_each_launch_and_not_before) {
  for (const char* streams : {"streams=immediate", "streams=deferred"}) {
    Emulated device(streams);
    Numbers<int> x(device, std::vector<int>(4, 1)), y(device, std::vector<int>(4, 0));
    const cudaGraphExec_t graph = captured(device, [&] {
      SUCCEEDS(cudaMemsetAsync(x.data(), 0, 16, device.stream));
      SUCCEEDS(device.launch(add, 1, 4, 0, x.data(), 5));
      SUCCEEDS(cudaMemcpyAsync(y.data(), x.data(), 8, cudaMemcpyDeviceToDevice, device.stream));
      SUCCEEDS(device.launch(add, 1, 4, 0, y.data(), 1));
    });
    CHECK(x.read() == std::vector<int>(4, 1));
    for (int round = 0; round < 3; round++) SUCCEEDS(cudaGraphLaunch(graph, device.stream));
    CHECK(x.read() == std::vector<int>(4, 5));
    CHECK(y.read() == (std::vector<int>{6, 6, 3, 3}));
    SUCCEEDS(cudaGraphExecDestroy(graph));
  }
}

TEST(a_capture_says_that_it_is_one) {
  Emulated device;
  cudaStreamCaptureStatus status;
  SUCCEEDS(cudaStreamIsCapturing(device.stream, &status));
  CHECK_EQUAL(status, cudaStreamCaptureStatusNone);
  cudaGraph_t graph = nullptr;
  CHECK_EQUAL(cudaStreamEndCapture(device.stream, &graph), cudaErrorIllegalState);
  SUCCEEDS(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeGlobal));
  SUCCEEDS(cudaStreamIsCapturing(device.stream, &status));
  CHECK_EQUAL(status, cudaStreamCaptureStatusActive);
  CHECK_EQUAL(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeGlobal), cudaErrorIllegalState);
  SUCCEEDS(cudaStreamEndCapture(device.stream, &graph));
  SUCCEEDS(cudaGraphDestroy(graph));
}

TEST(a_capture_cannot_wait_or_take_memory) {
  Emulated device;
  const auto error_of = [&](auto call) {
    cudaGraph_t graph = nullptr;
    SUCCEEDS(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal));
    CHECK_EQUAL(call(), cudaErrorStreamCaptureUnsupported);
    cudaStreamCaptureStatus status;
    SUCCEEDS(cudaStreamIsCapturing(device.stream, &status));
    CHECK_EQUAL(status, cudaStreamCaptureStatusInvalidated);
    CHECK_EQUAL(cudaStreamEndCapture(device.stream, &graph), cudaErrorStreamCaptureInvalidated);
    CHECK(graph == nullptr);
  };
  error_of([&] { return cudaStreamSynchronize(device.stream); });
  error_of([&] { return cudaStreamQuery(device.stream); });
  error_of([&] { return cudaDeviceSynchronize(); });
  void* data = nullptr;
  error_of([&] { return cudaMalloc(&data, 16); });
  SUCCEEDS(cudaMalloc(&data, 16));
  SUCCEEDS(cudaFree(data));
}

TEST(memory_that_a_graph_uses_must_live) {
  Emulated device;
  void* data = nullptr;
  SUCCEEDS(cudaMalloc(&data, 16));
  const cudaGraphExec_t graph = captured(device, [&] { SUCCEEDS(cudaMemsetAsync(data, 0, 16, device.stream)); });
  SUCCEEDS(cudaGraphLaunch(graph, device.stream));
  SUCCEEDS(cudaFree(data));
  CHECK_EQUAL(cudaGraphLaunch(graph, device.stream), cudaErrorLaunchFailure);
  CHECK_CONTAINS(device.report(), "cudaMemsetAsync: the destination is not in device memory");
}

TEST(destroyed_graphs_are_refused) {
  Emulated device;
  const cudaGraphExec_t graph = captured(device, [] {});
  SUCCEEDS(cudaGraphExecDestroy(graph));
  CHECK_EQUAL(cudaGraphLaunch(graph, device.stream), cudaErrorLaunchFailure);
  CHECK_CONTAINS(device.report(), "cudaGraphLaunch: the graph does not exist or was destroyed");
}

}  // namespace
}  // namespace sidetune::testing
