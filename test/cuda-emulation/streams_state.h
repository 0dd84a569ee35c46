// What streams, events and graphs are.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "streams.h"

namespace sidetune::emulation {

// One cudaEventRecord.
struct Recording {
  cudaStream_t stream;
  bool is_done = false;
  std::chrono::steady_clock::time_point time;
};

struct Queued {
  Operation operation;
  std::shared_ptr<Recording> records;    // when it comes to its turn
  std::shared_ptr<Recording> waits_for;  // before its turn
};

struct Capture {
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool is_valid = true;
  std::vector<Operation> operations;
};

// Everything below is for who holds the mutex. It is recursive: waiting for one stream may run another.
struct StreamRegistry {
  std::recursive_mutex mutex;
  std::vector<cudaStream_t> streams;  // oldest first
  std::set<cudaEvent_t> events;
  std::set<cudaGraph_t> graphs;
  std::set<cudaGraphExec_t> executables;
};
StreamRegistry& stream_registry();

// Runs what is queued on the stream up to its end, and on others what that waits for.
void run_stream(cudaStream_t stream);

}  // namespace sidetune::emulation

struct CUstream_st {
  std::deque<sidetune::emulation::Queued> queue;
  std::unique_ptr<sidetune::emulation::Capture> capture;
};

struct CUevent_st {
  bool has_timing = true;
  std::shared_ptr<sidetune::emulation::Recording> recording;  // the latest
};

struct CUgraph_st {
  std::vector<sidetune::emulation::Operation> operations;
};

struct CUgraphExec_st {
  std::vector<sidetune::emulation::Operation> operations;
};
