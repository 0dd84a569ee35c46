// Streams and what is queued on them.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <string>

namespace sidetune::emulation {

struct Operation {
  std::string name;
  std::function<void()> run;
};

// Whether it is a stream that exists; reports otherwise. The default stream is refused: it would wait for all others.
bool check_stream(const char* function, cudaStream_t stream);

// Queues; an operation that comes to its turn after a mistake was found does not run.
cudaError_t submit(cudaStream_t stream, Operation operation);

// Runs what is queued on any stream.
void run_everything();

// Destroys everything. Returns what was still there, for people to read; empty when nothing was.
std::string destroy_all_streams();

}  // namespace sidetune::emulation
