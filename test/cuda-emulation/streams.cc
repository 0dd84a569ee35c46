#include <algorithm>

#include "errors.h"
#include "streams_state.h"
#ifdef SIDETUNE_COVERAGE
extern "C" {
#include <gcov.h>
}
#endif

namespace sidetune::emulation {
namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

bool exists(cudaStream_t stream) {
  const auto& streams = stream_registry().streams;
  return std::find(streams.begin(), streams.end(), stream) != streams.end();
}

bool check_event(const char* function, cudaEvent_t event) {
  {
    const Lock lock(stream_registry().mutex);
    if (stream_registry().events.count(event)) return true;
  }
  report(std::string(function) + ": the event does not exist or was destroyed");
  return false;
}

void run_until_done(const Recording& recording);

// The stream's queue is not empty.
void run_next(cudaStream_t stream) {
  const Queued next = std::move(stream->queue.front());
  stream->queue.pop_front();
  if (next.waits_for) run_until_done(*next.waits_for);
  if (next.records) {
    next.records->is_done = true;
    next.records->time = std::chrono::steady_clock::now();
  }
  if (next.operation.run && sticky_error() == cudaSuccess) next.operation.run();
}

void run_until_done(const Recording& recording) {
  while (!recording.is_done) run_next(recording.stream);
}

// Immediately, or when somebody waits.
void add(cudaStream_t stream, Queued queued) {
  const Lock lock(stream_registry().mutex);
  stream->queue.push_back(std::move(queued));
  if (!configuration().deferred) run_stream(stream);
}

// A call that waits for a stream, or asks it, ends its capture.
cudaError_t refuse_on_capturing(cudaStream_t stream) {
  if (!stream->capture) return cudaSuccess;
  stream->capture->is_valid = false;
  return note(cudaErrorStreamCaptureUnsupported);
}

}  // namespace

StreamRegistry& stream_registry() {
  static StreamRegistry& lasting = *new StreamRegistry;
  return lasting;
}

bool check_stream(const char* function, cudaStream_t stream) {
  {
    const Lock lock(stream_registry().mutex);
    if (exists(stream)) return true;
  }
  report(std::string(function) + (stream ? ": the stream does not exist or was destroyed" : ": uses the default stream"));
  return false;
}

bool is_capturing(cudaStream_t stream) { return stream->capture != nullptr; }

cudaError_t submit(cudaStream_t stream, const Operation& operation) {
  if (operation.check && !operation.check()) return note(sticky_error());
  if (stream->capture) {
    if (!stream->capture->is_valid) return note(cudaErrorStreamCaptureInvalidated);
    stream->capture->operations.push_back(operation);
  } else if (configuration().deferred) {
    add(stream, {operation, nullptr, nullptr});
  } else {
    operation.run();  // without the lock: other threads have streams of their own
  }
  return cudaSuccess;
}

void run_stream(cudaStream_t stream) {
  while (!stream->queue.empty()) run_next(stream);
}

void run_everything() {
  StreamRegistry& r = stream_registry();
  const Lock lock(r.mutex);
  for (auto stream = r.streams.rbegin(); stream != r.streams.rend(); ++stream) run_stream(*stream);
}

cudaError_t refuse_in_capture() {
  StreamRegistry& r = stream_registry();
  const Lock lock(r.mutex);
  cudaError_t error = cudaSuccess;
  for (cudaStream_t stream : r.streams) {
    if (!stream->capture || stream->capture->mode == cudaStreamCaptureModeRelaxed) continue;
    if (stream->capture->mode == cudaStreamCaptureModeThreadLocal && stream->capture->thread != std::this_thread::get_id())
      continue;
    stream->capture->is_valid = false;
    error = cudaErrorStreamCaptureUnsupported;
  }
  return note(error);
}

std::string destroy_all_streams() {
  StreamRegistry& r = stream_registry();
  const Lock lock(r.mutex);
  std::string left;
  const auto destroy = [&left](auto& all, const char* what) {
    if (!all.empty()) left += (left.empty() ? "" : ", ") + std::to_string(all.size()) + what;
    for (auto* one : all) delete one;
    all.clear();
  };
  destroy(r.streams, " streams");
  destroy(r.events, " events");
  destroy(r.graphs, " graphs");
  destroy(r.executables, " executable graphs");
  return left;
}

}  // namespace sidetune::emulation

using namespace sidetune::emulation;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (const cudaError_t error = enter("cudaStreamCreateWithFlags")) return error;
  if (!stream || flags > cudaStreamNonBlocking) return note(cudaErrorInvalidValue);
  *stream = new CUstream_st;
  const Lock lock(stream_registry().mutex);
  stream_registry().streams.push_back(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaStreamDestroy")) return error;
  if (!check_stream("cudaStreamDestroy", stream)) return note(sticky_error());
  StreamRegistry& r = stream_registry();
  const Lock lock(r.mutex);
  run_stream(stream);  // the device would finish it by itself
  r.streams.erase(std::find(r.streams.begin(), r.streams.end(), stream));
  delete stream;
#ifdef SIDETUNE_COVERAGE  // a process that is killed writes nothing
  __gcov_dump();
  __gcov_reset();
#endif
  return note(sticky_error());
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaStreamSynchronize")) return error;
  if (!check_stream("cudaStreamSynchronize", stream)) return note(sticky_error());
  const Lock lock(stream_registry().mutex);
  if (const cudaError_t error = refuse_on_capturing(stream)) return error;
  run_stream(stream);
  return note(sticky_error());
}

// Each question lets the stream do one thing, so that who asks until it is ready comes to an end.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaStreamQuery")) return error;
  if (!check_stream("cudaStreamQuery", stream)) return note(sticky_error());
  const Lock lock(stream_registry().mutex);
  if (const cudaError_t error = refuse_on_capturing(stream)) return error;
  if (stream->queue.empty()) return note(sticky_error());
  run_next(stream);
  return cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  if (const cudaError_t error = enter("cudaStreamWaitEvent")) return error;
  if (flags != 0) return note(cudaErrorInvalidValue);
  if (!check_stream("cudaStreamWaitEvent", stream) || !check_event("cudaStreamWaitEvent", event)) return note(sticky_error());
  if (const cudaError_t error = refuse_on_capturing(stream)) return error;
  if (event->recording) add(stream, {{"cudaStreamWaitEvent", {}, {}}, nullptr, event->recording});
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (const cudaError_t error = enter("cudaEventCreateWithFlags")) return error;
  if (!event || (flags & ~(cudaEventBlockingSync | cudaEventDisableTiming))) return note(cudaErrorInvalidValue);
  *event = new CUevent_st;
  (*event)->has_timing = !(flags & cudaEventDisableTiming);
  const Lock lock(stream_registry().mutex);
  stream_registry().events.insert(*event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaEventRecord")) return error;
  if (!check_stream("cudaEventRecord", stream) || !check_event("cudaEventRecord", event)) return note(sticky_error());
  if (const cudaError_t error = refuse_on_capturing(stream)) return error;
  const auto recording = std::make_shared<Recording>();
  recording->stream = stream;
  {
    const Lock lock(stream_registry().mutex);
    event->recording = recording;
  }
  add(stream, {{"cudaEventRecord", {}, {}}, recording, nullptr});
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t error = enter("cudaEventSynchronize")) return error;
  if (!check_event("cudaEventSynchronize", event)) return note(sticky_error());
  const Lock lock(stream_registry().mutex);
  if (event->recording) run_until_done(*event->recording);
  return note(sticky_error());
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t error = enter("cudaEventQuery")) return error;
  if (!check_event("cudaEventQuery", event)) return note(sticky_error());
  const Lock lock(stream_registry().mutex);
  if (!event->recording || event->recording->is_done) return note(sticky_error());
  run_next(event->recording->stream);
  return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (const cudaError_t error = enter("cudaEventElapsedTime")) return error;
  if (!check_event("cudaEventElapsedTime", start) || !check_event("cudaEventElapsedTime", end)) return note(sticky_error());
  if (!milliseconds) return note(cudaErrorInvalidValue);
  const Lock lock(stream_registry().mutex);
  if (!start->has_timing || !end->has_timing || !start->recording || !end->recording) return note(cudaErrorInvalidResourceHandle);
  if (!start->recording->is_done || !end->recording->is_done) return note(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->recording->time - start->recording->time).count();
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (const cudaError_t error = enter("cudaEventDestroy")) return error;
  if (!check_event("cudaEventDestroy", event)) return note(sticky_error());
  const Lock lock(stream_registry().mutex);
  stream_registry().events.erase(event);
  delete event;
  return cudaSuccess;
}

}  // extern "C"
