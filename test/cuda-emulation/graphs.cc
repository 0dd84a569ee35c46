// Graphs: what a stream was given between the begin and the end of a capture, to be done again.
#include "errors.h"
#include "streams_state.h"

using namespace sidetune::emulation;

namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

template <class Handle>
bool check_exists(const char* function, const std::set<Handle>& all, Handle handle) {
  if (all.count(handle)) return true;
  report(std::string(function) + ": the graph does not exist or was destroyed");
  return false;
}

template <class Handle>
cudaError_t destroy(const char* function, std::set<Handle>& all, Handle handle) {
  if (const cudaError_t error = enter(function)) return error;
  const Lock lock(stream_registry().mutex);
  if (!check_exists(function, all, handle)) return note(sticky_error());
  all.erase(handle);
  delete handle;
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (const cudaError_t error = enter("cudaStreamBeginCapture")) return error;
  if (!check_stream("cudaStreamBeginCapture", stream)) return note(sticky_error());
  if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed) return note(cudaErrorInvalidValue);
  const Lock lock(stream_registry().mutex);
  if (stream->capture) return note(cudaErrorIllegalState);
  stream->capture = std::make_unique<Capture>();
  stream->capture->mode = mode;
  stream->capture->thread = std::this_thread::get_id();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (const cudaError_t error = enter("cudaStreamEndCapture")) return error;
  if (!check_stream("cudaStreamEndCapture", stream)) return note(sticky_error());
  if (!graph) return note(cudaErrorInvalidValue);
  const Lock lock(stream_registry().mutex);
  *graph = nullptr;
  if (!stream->capture) return note(cudaErrorIllegalState);
  if (stream->capture->mode != cudaStreamCaptureModeRelaxed && stream->capture->thread != std::this_thread::get_id())
    return note(cudaErrorStreamCaptureWrongThread);
  const std::unique_ptr<Capture> capture = std::move(stream->capture);
  if (!capture->is_valid) return note(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st{std::move(capture->operations)};
  stream_registry().graphs.insert(*graph);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  if (const cudaError_t error = enter("cudaStreamIsCapturing")) return error;
  if (!check_stream("cudaStreamIsCapturing", stream)) return note(sticky_error());
  if (!status) return note(cudaErrorInvalidValue);
  const Lock lock(stream_registry().mutex);
  *status = !stream->capture            ? cudaStreamCaptureStatusNone
            : stream->capture->is_valid ? cudaStreamCaptureStatusActive
                                        : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
  if (const cudaError_t error = enter("cudaGraphInstantiate")) return error;
  if (!executable || flags != 0) return note(cudaErrorInvalidValue);
  const Lock lock(stream_registry().mutex);
  if (!check_exists("cudaGraphInstantiate", stream_registry().graphs, graph)) return note(sticky_error());
  *executable = new CUgraphExec_st{graph->operations};
  stream_registry().executables.insert(*executable);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaGraphLaunch")) return error;
  if (!check_stream("cudaGraphLaunch", stream)) return note(sticky_error());
  std::vector<Operation> operations;
  {
    const Lock lock(stream_registry().mutex);
    if (!check_exists("cudaGraphLaunch", stream_registry().executables, executable)) return note(sticky_error());
    operations = executable->operations;
  }
  for (const Operation& operation : operations) {
    if (sticky_error() != cudaSuccess) break;
    if (const cudaError_t error = submit(stream, operation)) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return destroy("cudaGraphExecDestroy", stream_registry().executables, executable);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return destroy("cudaGraphDestroy", stream_registry().graphs, graph); }

}  // extern "C"
