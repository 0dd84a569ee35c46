// Streams and what is queued on them.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <string>

namespace sidetune::emulation {

struct Operation {
  std::string name;
  std::function<void()> run;
  // Whether it may run, asked when it is queued and at each launch of a graph that holds it; reports otherwise. May be empty.
  std::function<bool()> check;
};

// Whether it is a stream that exists; reports otherwise. The default stream is refused: it would wait for all others.
bool check_stream(const char* function, cudaStream_t stream);
bool is_capturing(cudaStream_t stream);

// Runs the operation, or keeps it until somebody waits for the stream, or adds it to the graph that the stream captures. What
// comes to its turn after a mistake was found does not run.
cudaError_t submit(cudaStream_t stream, const Operation& operation);

// Runs what is queued on any stream, the newest stream first.
void run_everything();

// cudaSuccess, or what a call that a graph cannot hold returns while one is captured; the capture is then invalid.
cudaError_t refuse_in_capture();

// Destroys everything. Returns what was still there, for people to read; empty when nothing was.
std::string destroy_all_streams();

}  // namespace sidetune::emulation
