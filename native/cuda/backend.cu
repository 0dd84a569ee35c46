#include "backend.cuh"

#include <cstdio>
#include <map>
#include <mutex>
#include <new>

#include "gemm.cuh"
#include "launch.cuh"
#include "staging.cuh"

namespace sidetune::cuda {
namespace {

// CUDA's sticky failures end only when the process resets the device, which takes all that is open on it along: the last one to
// close a lost device resets it.
class OpenDevices {
 public:
  static OpenDevices& of_process() {
    static OpenDevices devices;
    return devices;
  }
  // Returns how often a device was reset before.
  int64_t opened(int index) {
    const std::lock_guard<std::mutex> lock(mutex_);
    count_[index]++;
    return resets_;
  }
  void closed(int index) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--count_[index] == 0) reset_if_lost();
  }
  // What an earlier device left must not stay when none is open.
  void failed_to_open() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [index, count] : count_)
      if (count > 0) return;
    reset_if_lost();
  }
  int64_t resets() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return resets_;
  }

 private:
  void reset_if_lost() {
    if (is_sticky(cudaPeekAtLastError()) || is_sticky(cudaDeviceSynchronize())) {
      cudaDeviceReset();
      resets_++;
    }
    cudaGetLastError();
  }

  std::mutex mutex_;
  std::map<int, int> count_;
  int64_t resets_ = 0;
};

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

// How many devices there are, or why there are none.
Status count(int* devices) noexcept {
  try {
    *devices = 0;
    const cudaError_t result = cudaGetDeviceCount(devices);
    if (result == cudaSuccess || result == cudaErrorNoDevice) return {};
    cudaGetLastError();
    if (result == cudaErrorInsufficientDriver) {
      int driver = 0, runtime = 0;
      cudaDriverGetVersion(&driver);
      cudaRuntimeGetVersion(&runtime);
      if (driver == 0) return failure(Code::no_backend, "no NVIDIA driver runs here");
      return failure(Code::no_backend, "the NVIDIA driver is made for CUDA " + version(driver) + ", this backend for CUDA " +
                                           version(runtime) + ": update the driver");
    }
    OpenDevices::of_process().failed_to_open();
    return failure(Code::no_backend,
                   std::string("CUDA cannot start: ") + cudaGetErrorName(result) + ", " + cudaGetErrorString(result));
  } catch (...) {
    return status_of_current_exception();
  }
}

Status open(const DeviceOptions& options, BackendDevice** out) noexcept {
  try {
    int devices = 0;
    if (const Status status = count(&devices); !status.ok) return status;
    if (options.index >= devices) {
      return failure(Code::no_backend, "no CUDA device " + std::to_string(options.index) + ": this machine has " +
                                           (devices == 0 ? "none" : std::to_string(devices) + ", counted from 0"));
    }
    if (options.threads > 0)
      return refusal("threads", std::to_string(options.threads), "no such option: it is for devices on the CPU");
    *out = new BackendDevice(options.index, options.tf32);
    return {};
  } catch (...) {
    OpenDevices::of_process().failed_to_open();
    return status_of_current_exception();
  }
}

void stopped(BackendDevice& cuda) noexcept { cuda.stop(); }
void close(BackendDevice* cuda) noexcept { delete cuda; }

// Called on JavaScript's thread, too.
Status take_memory(BackendDevice& cuda, int64_t bytes, void** data) noexcept {
  try {
    check(cudaSetDevice(cuda.index), "choosing the device");
    const cudaError_t result = cudaMalloc(data, static_cast<size_t>(bytes));
    if (result != cudaErrorMemoryAllocation) check(result, "taking memory");
    if (result == cudaSuccess) return {};
    cudaGetLastError();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    return failure(Code::memory,
                   "the device has " + std::to_string(free >> 20) + " of " + std::to_string(total >> 20) + " MiB free");
  } catch (...) {
    return status_of_current_exception();
  }
}
void give_memory(BackendDevice& cuda, void* data, int64_t) noexcept {
  if (cuda.resets != OpenDevices::of_process().resets()) return;  // the reset took it
  cudaSetDevice(cuda.index);
  cudaFree(data);
}

int64_t memory_limit(BackendDevice& cuda) noexcept { return cuda.properties.memory_bytes; }

// cudaMalloc gives memory, not address space: a slab is as much as is likely to be used.
int64_t slab_bytes(BackendDevice&) noexcept { return int64_t{256} << 20; }

template <class Body>
Status on_device(Cuda& cuda, const Body& body) noexcept {
  try {
    use(cuda);
    body();
    return {};
  } catch (...) {
    return status_of_current_exception();
  }
}

Status copy_in(Cuda& cuda, void* device, const void* host, int64_t bytes) noexcept {
  return on_device(cuda, [&] { cuda.staging->copy_in(cuda.stream, device, host, bytes); });
}
Status copy_out(Cuda& cuda, void* host, const void* device, int64_t bytes) noexcept {
  return on_device(cuda, [&] { cuda.staging->copy_out(cuda.stream, host, device, bytes); });
}
Status copy(Cuda& cuda, void* to, const void* from, int64_t bytes) noexcept {
  return on_device(cuda, [&] {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, cuda.stream), "copying");
  });
}
Status fill(Cuda& cuda, void* data, uint8_t byte, int64_t bytes) noexcept {
  return on_device(cuda, [&] { check(cudaMemsetAsync(data, byte, static_cast<size_t>(bytes), cuda.stream), "filling memory"); });
}
Status synchronize(Cuda& cuda) noexcept {
  return on_device(cuda, [&] { check(cudaStreamSynchronize(cuda.stream), "waiting for the stream"); });
}

struct Graph {
  cudaGraphExec_t executable = nullptr;
  bool is_watched = false;  // some of its calls are

  ~Graph() {
    if (executable) cudaGraphExecDestroy(executable);
  }
};

// Other threads of the process may allocate meanwhile: the capture is this thread's.
Status begin_graph(Cuda& cuda) noexcept {
  return on_device(cuda, [&] {
    check(cudaStreamBeginCapture(cuda.stream, cudaStreamCaptureModeThreadLocal), "beginning a graph");
    cuda.findings->begin_graph();
  });
}
Status end_graph(Cuda& cuda, void** made) noexcept {
  return on_device(cuda, [&] {
    auto graph = std::make_unique<Graph>();
    graph->is_watched = cuda.findings->end_graph();
    cudaGraph_t captured = nullptr;
    check(cudaStreamEndCapture(cuda.stream, &captured), "ending a graph");
    const cudaError_t result = cudaGraphInstantiate(&graph->executable, captured, 0);
    cudaGraphDestroy(captured);
    check(result, "making a graph ready");
    *made = graph.release();
  });
}
Status launch_graph(Cuda& cuda, void* made) noexcept {
  const Graph& graph = *static_cast<Graph*>(made);
  uint64_t ticket = 0;
  Status status = on_device(cuda, [&] {
    if (graph.is_watched) ticket = cuda.findings->watch_graph(cuda);
    check(cudaGraphLaunch(graph.executable, cuda.stream), "launching a graph");
  });
  status.ticket = ticket;
  return status;
}
void free_graph(Cuda& cuda, void* graph) noexcept {
  if (cuda.stream) {
    cudaSetDevice(cuda.index);
    cudaStreamSynchronize(cuda.stream);
  }
  delete static_cast<Graph*>(graph);
}

Status settle(Cuda& cuda) noexcept {
  Status found;
  const Status status = on_device(cuda, [&] {
    std::string text;
    const uint64_t ticket = cuda.findings->settle(cuda.stream, &text);
    if (ticket == 0) return;
    found = failure(Code::late, text);
    found.ticket = ticket;
  });
  return status.ok ? found : status;
}

// cuBLASLt reads a weight as it stands, in either direction: both packed layouts are the plain rows.
Status packed_bytes(Cuda&, int64_t rows, int64_t columns, DType dtype, Layout, int64_t* bytes) noexcept {
  if (dtype == DType::i8) return failure(Code::dtype, "weights in int8 are for devices on the CPU, this is a CUDA device");
  *bytes = rows * columns * size_of(dtype);
  return {};
}

void describe(Cuda& cuda, char* text, int64_t capacity) noexcept {
  const cuda::Properties& p = cuda.properties;
  const size_t library = cublasLtGetVersion();
  snprintf(
      text, static_cast<size_t>(capacity),
      "{\"backend\":\"cuda\",\"processor\":\"%s\",\"multiprocessors\":%d,\"computeCapability\":\"%d.%d\",\"gemm\":\"cuBLASLt "
      "%zu.%zu.%zu\",\"bf16Gemm\":%s,\"tf32\":%s}",
      p.name.c_str(), p.multiprocessors, p.major, p.minor, library / 10000, library % 10000 / 100, library % 100,
      p.has_bf16() ? "true" : "false", cuda.tf32 ? "true" : "false");
}

}  // namespace

void use(Cuda& cuda) { check(cudaSetDevice(cuda.index), "choosing the device"); }

void check_grid(const Properties& properties, const Grid& grid) {
  const bool right = grid.threads > 0 && grid.threads <= kMostThreads && grid.blocks.x <= kMostBlocks &&
                     grid.blocks.y <= kMostBlocksYZ && grid.blocks.z <= kMostBlocksYZ &&
                     grid.shared_bytes <= properties.most_shared_bytes;
  if (right) return;
  throw Error(Code::late, "a launch of " + std::to_string(grid.blocks.x) + " × " + std::to_string(grid.blocks.y) + " × " +
                              std::to_string(grid.blocks.z) + " blocks of " + std::to_string(grid.threads) + " threads and " +
                              std::to_string(grid.shared_bytes) + " bytes of shared memory is more than this device takes (" +
                              std::to_string(properties.most_shared_bytes) + " bytes)");
}

#define KERNEL(family, Arguments) \
  template <>                     \
  Entry<Arguments> entry<Arguments>();
#include "native/kernels.def"
#undef KERNEL

}  // namespace sidetune::cuda

namespace sidetune {

BackendDevice::BackendDevice(int index, bool tf32) : index(index), tf32(tf32), properties(cuda::properties_of(index)) {
  cuda::use(*this);
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  resets = cuda::OpenDevices::of_process().opened(index);
  try {
    staging = std::make_unique<cuda::Staging>();
    gemms = std::make_unique<cuda::Gemms>();
    findings = std::make_unique<cuda::Findings>(stream);
  } catch (...) {
    cudaStreamDestroy(stream);
    cuda::OpenDevices::of_process().closed(index);
    throw;
  }
}

void BackendDevice::stop() {
  if (!stream) return;
  cudaSetDevice(index);
  cudaStreamSynchronize(stream);
  findings.reset();
  gemms.reset();
  staging.reset();
  cudaStreamDestroy(stream);
  stream = nullptr;
  cuda::OpenDevices::of_process().closed(index);
}

BackendDevice::~BackendDevice() { stop(); }

}  // namespace sidetune

// What the addon asks a library of a backend for.
extern "C" __attribute__((visibility("default"))) const sidetune::BackendTable* sidetune_backend() {
  using namespace sidetune;
  static const BackendTable table = [] {
    BackendTable t{kBackendVersion,    "cuda",
                   cuda::count,        cuda::open,
                   cuda::stopped,      cuda::close,
                   cuda::take_memory,  cuda::give_memory,
                   cuda::slab_bytes,   cuda::memory_limit,
                   cuda::copy_in,      cuda::copy_out,
                   cuda::copy,         cuda::fill,
                   cuda::synchronize,  cuda::settle,
                   cuda::begin_graph,  cuda::end_graph,
                   cuda::launch_graph, cuda::free_graph,
                   cuda::packed_bytes, true,
                   cuda::describe,     {}};
#define KERNEL(family, Arguments) static_cast<Entry<Arguments>&>(t.kernels) = cuda::entry<Arguments>();
#include "native/kernels.def"
#undef KERNEL
    return t;
  }();
  return &table;
}
