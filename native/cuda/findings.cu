#include "findings.cuh"

#include <cctype>

#include "launch.cuh"

namespace sidetune::cuda {
namespace {

__global__ void begin_watched_graph(FindingsState* state, uint64_t ticket) { state->graph = ticket; }

}  // namespace

Findings::Findings(cudaStream_t stream) : Findings() {
  check(cudaMalloc(reinterpret_cast<void**>(&state_), sizeof(FindingsState)), "taking memory for findings");
  check(cudaMallocHost(reinterpret_cast<void**>(&pinned_), sizeof(Finding)), "taking pinned memory");
  forget(stream);
}

Findings::~Findings() {
  if (pinned_) cudaFreeHost(pinned_);
  if (state_) cudaFree(state_);
}

void Findings::forget(cudaStream_t stream) {
  check(cudaMemsetAsync(state_, 0, sizeof(FindingsState), stream), "forgetting findings");
}

Watch Findings::watch(Sentence sentence) {
  if (in_graph_) {
    graph_is_watched_ = true;
    return {state_, 0, kernel_, sentence};
  }
  is_unsettled_ = true;
  ticket_ = ++last_ticket_;
  return {state_, ticket_, nullptr, sentence};
}

bool Findings::end_graph() {
  in_graph_ = false;
  return graph_is_watched_;
}

uint64_t Findings::watch_graph(BackendDevice& cuda) {
  is_unsettled_ = true;
  launch(cuda, begin_watched_graph, {dim3(1), 1}, state_, ++last_ticket_);
  return last_ticket_;
}

uint64_t Findings::settle(cudaStream_t stream, std::string* text) {
  if (!is_unsettled_) return 0;
  check(cudaMemcpyAsync(pinned_, &state_->first, sizeof(Finding), cudaMemcpyDeviceToHost, stream), "reading findings");
  check(cudaStreamSynchronize(stream), "waiting for the stream");
  is_unsettled_ = false;
  const Finding found = *pinned_;
  if (found.ticket == 0) return 0;
  forget(stream);
  *text = found.sentence(found.value, found.row, found.limit);
  if (found.kernel) {
    std::string kernel = found.kernel;
    kernel[0] = static_cast<char>(std::tolower(kernel[0]));
    *text = kernel + ": " + *text;
  }
  return found.ticket;
}

}  // namespace sidetune::cuda
