#include "streams.h"

#include <chrono>
#include <memory>
#include <mutex>
#include <set>

#include "errors.h"

struct CUstream_st {};

struct CUevent_st {
  bool has_timing = true;
  bool is_recorded = false;
  std::chrono::steady_clock::time_point time;
};

namespace sidetune::emulation {
namespace {

struct Registry {
  std::mutex mutex;
  std::set<cudaStream_t> streams;
  std::set<cudaEvent_t> events;
};
Registry& registry() {
  static Registry& lasting = *new Registry;
  return lasting;
}

bool check_event(const char* function, cudaEvent_t event) {
  {
    const std::lock_guard lock(registry().mutex);
    if (registry().events.count(event)) return true;
  }
  report(std::string(function) + ": the event does not exist or was destroyed");
  return false;
}

}  // namespace

bool check_stream(const char* function, cudaStream_t stream) {
  {
    const std::lock_guard lock(registry().mutex);
    if (registry().streams.count(stream)) return true;
  }
  report(std::string(function) + (stream ? ": the stream does not exist or was destroyed" : ": uses the default stream"));
  return false;
}

cudaError_t submit(cudaStream_t, Operation operation) {
  operation.run();
  return cudaSuccess;
}

void run_everything() {}

std::string destroy_all_streams() {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  std::string left;
  const auto add = [&left](size_t count, const char* what) {
    if (count > 0) left += (left.empty() ? "" : ", ") + std::to_string(count) + what;
  };
  add(r.streams.size(), " streams");
  add(r.events.size(), " events");
  for (cudaStream_t stream : r.streams) delete stream;
  for (cudaEvent_t event : r.events) delete event;
  r.streams.clear();
  r.events.clear();
  return left;
}

}  // namespace sidetune::emulation

using namespace sidetune::emulation;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (const cudaError_t error = enter("cudaStreamCreateWithFlags")) return error;
  if (!stream || flags > cudaStreamNonBlocking) return note(cudaErrorInvalidValue);
  *stream = new CUstream_st;
  const std::lock_guard lock(registry().mutex);
  registry().streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaStreamDestroy")) return error;
  if (!check_stream("cudaStreamDestroy", stream)) return note(sticky_error());
  const std::lock_guard lock(registry().mutex);
  registry().streams.erase(stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaStreamSynchronize")) return error;
  return check_stream("cudaStreamSynchronize", stream) ? cudaSuccess : note(sticky_error());
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaStreamQuery")) return error;
  return check_stream("cudaStreamQuery", stream) ? cudaSuccess : note(sticky_error());
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  if (const cudaError_t error = enter("cudaStreamWaitEvent")) return error;
  if (flags != 0) return note(cudaErrorInvalidValue);
  if (!check_stream("cudaStreamWaitEvent", stream) || !check_event("cudaStreamWaitEvent", event)) return note(sticky_error());
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (const cudaError_t error = enter("cudaEventCreateWithFlags")) return error;
  if (!event || (flags & ~(cudaEventBlockingSync | cudaEventDisableTiming))) return note(cudaErrorInvalidValue);
  *event = new CUevent_st;
  (*event)->has_timing = !(flags & cudaEventDisableTiming);
  const std::lock_guard lock(registry().mutex);
  registry().events.insert(*event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaEventRecord")) return error;
  if (!check_stream("cudaEventRecord", stream) || !check_event("cudaEventRecord", event)) return note(sticky_error());
  event->is_recorded = true;
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t error = enter("cudaEventSynchronize")) return error;
  return check_event("cudaEventSynchronize", event) ? cudaSuccess : note(sticky_error());
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t error = enter("cudaEventQuery")) return error;
  return check_event("cudaEventQuery", event) ? cudaSuccess : note(sticky_error());
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (const cudaError_t error = enter("cudaEventElapsedTime")) return error;
  if (!check_event("cudaEventElapsedTime", start) || !check_event("cudaEventElapsedTime", end)) return note(sticky_error());
  if (!milliseconds) return note(cudaErrorInvalidValue);
  if (!start->has_timing || !end->has_timing || !start->is_recorded || !end->is_recorded)
    return note(cudaErrorInvalidResourceHandle);
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (const cudaError_t error = enter("cudaEventDestroy")) return error;
  if (!check_event("cudaEventDestroy", event)) return note(sticky_error());
  const std::lock_guard lock(registry().mutex);
  registry().events.erase(event);
  delete event;
  return cudaSuccess;
}

}  // extern "C"
