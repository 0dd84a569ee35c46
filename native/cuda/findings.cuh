// What kernels find wrong in their data, such as a label that is no class. A kernel leaves the stream's first finding in device
// memory, and the host looks there when somebody waits (BackendTable::settle): no call waits for it. Calls that follow a failed
// one are to be skipped; on the device those are, that change what outlives a step (adamw.cu): they read first().
#pragma once

#include <cstdint>
#include <string>

#include "runtime.cuh"

namespace sidetune {
struct BackendDevice;
}

namespace sidetune::cuda {

// How a finding reads: the value in a row that is not below the limit.
using Sentence = std::string (*)(int64_t value, int64_t row, int64_t limit);

struct Finding {
  uint64_t ticket;     // of the call or graph; 0: nothing was found
  const char* kernel;  // where the ticket is a graph's, which of its calls it was
  Sentence sentence;   // the host's
  int64_t value, row, limit;
};

// In device memory.
struct FindingsState {
  Finding first;
  uint64_t graph;  // ticket of the graph that runs
};

// A call's right to report: an argument of its kernels.
struct Watch {
  FindingsState* state;
  uint64_t ticket;  // 0 in a graph: each of its runs has another
  const char* kernel;
  Sentence sentence;

  // Whether this or an earlier call has failed already.
  __device__ bool has_found() const { return state->first.ticket != 0; }
  // One thread of the grid calls it.
  __device__ void report(int64_t value, int64_t row, int64_t limit) const {
    state->first = {ticket != 0 ? ticket : state->graph, kernel, sentence, value, row, limit};
  }
};

class Findings {
 public:
  explicit Findings(cudaStream_t stream);
  ~Findings();
  Findings(const Findings&) = delete;

  void begin_call(const char* kernel) { kernel_ = kernel, ticket_ = 0; }
  Watch watch(Sentence sentence);
  // Of the call that ran; 0 where it was not watched.
  uint64_t ticket() const { return ticket_; }

  // Calls in between become a graph; says whether one of them was watched.
  void begin_graph() { in_graph_ = true, graph_is_watched_ = false; }
  bool end_graph();
  // The ticket of the graph that is launched next.
  uint64_t watch_graph(BackendDevice& cuda);

  // Device memory.
  const Finding* first() const { return &state_->first; }

  // Waits if something was watched since the last time: the ticket of what failed first, and how; 0 if nothing did.
  uint64_t settle(cudaStream_t stream, std::string* text);

 private:
  Findings() = default;
  void forget(cudaStream_t stream);

  FindingsState* state_ = nullptr;
  Finding* pinned_ = nullptr;
  const char* kernel_ = nullptr;
  uint64_t ticket_ = 0, last_ticket_ = 0;
  bool is_unsettled_ = false, in_graph_ = false, graph_is_watched_ = false;
};

}  // namespace sidetune::cuda
