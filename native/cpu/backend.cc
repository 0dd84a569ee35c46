#include "backend.h"

#include <omp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <new>
#include <string>

#include "gemm.h"
#include "hwy/highway.h"
#include "parallel.h"

namespace sidetune::cpu {
namespace {

Status failure(Code code, const std::string& text) {
  Status status;
  status.ok = false;
  status.code = code;
  snprintf(status.text, sizeof status.text, "%s", text.c_str());
  return status;
}

// A control group may allow less than the machine has: "cpu.max" holds quota and period in microseconds, or "max".
double group_cores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0) return std::atof(quota.c_str()) / period;
  return 1e9;
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores =
      sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return std::max(1, std::min(cores, static_cast<int>(std::floor(std::max(1.0, group_cores())))));
}

int default_threads() {
  for (const char* name : {"SIDETUNE_NUM_THREADS", "OMP_NUM_THREADS"}) {
    const char* text = std::getenv(name);
    const int count = text ? std::atoi(text) : 0;
    if (count > 0) return std::min(count, 4 * available_cores());
  }
  return available_cores();
}

// SIDETUNE_SIMD=AVX2 or scalar holds the kernels below what the machine has: to reproduce another machine's numbers, and for
// tests.
Status choose_simd() {
  const char* wanted = std::getenv("SIDETUNE_SIMD");
  hwy::SetSupportedTargetsForTest(0);
  const int64_t all = hwy::SupportedTargets() & HWY_TARGETS;
  int64_t allowed = all;
  if (wanted && *wanted) {
    std::string known;
    allowed = 0;
    for (int64_t left = all; left != 0; left &= left - 1) {
      const int64_t target = left & -left;
      std::string name = hwy::TargetName(target);
      if (target == HWY_STATIC_TARGET) name = "scalar";
      known += (known.empty() ? "" : ", ") + name;
      if (name == wanted) allowed = left;  // this target and the lesser ones
    }
    if (!allowed) return failure(Code::argument, std::string("SIDETUNE_SIMD is '") + wanted + "', expected one of " + known);
    hwy::SetSupportedTargetsForTest(allowed);
  }
  hwy::GetChosenTarget().Update(allowed);
  return {};
}

Status open(const DeviceOptions& options, BackendDevice** out) noexcept {
  const int cores = available_cores();
  if (options.threads < 0 || options.threads > 4 * cores) {
    return failure(Code::argument, "'threads' is " + std::to_string(options.threads) + ", expected a number from 1 to " +
                                       std::to_string(4 * cores) + " (4 for each of the " + std::to_string(cores) +
                                       " cores that this process may use)");
  }
  try {
    const Status simd = choose_simd();
    if (!simd.ok) return simd;
    auto* cpu = new BackendDevice;
    cpu->threads = options.threads > 0 ? options.threads : default_threads();
    cpu->gemms = std::make_shared<GemmCache>();
    *out = cpu;
    return {};
  } catch (...) {
    return status_of_current_exception();
  }
}

void close(BackendDevice* cpu) noexcept { delete cpu; }

// Address space without memory behind it: pages come when they are touched, large ones where the system has them.
void take_memory(BackendDevice&, int64_t bytes, void** data) noexcept {
  void* taken = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  *data = taken == MAP_FAILED ? nullptr : taken;
  if (*data) madvise(*data, bytes, MADV_HUGEPAGE);
}
void give_memory(BackendDevice&, void* data, int64_t bytes) noexcept { munmap(data, bytes); }

int64_t memory_limit(BackendDevice&) noexcept {
  struct sysinfo info;
  int64_t limit = sysinfo(&info) == 0 ? static_cast<int64_t>(info.totalram) * info.mem_unit : int64_t{1} << 40;
  std::ifstream file("/sys/fs/cgroup/memory.max");
  int64_t group = 0;
  if (file >> group && group > 0) limit = std::min(limit, group);
  return limit;
}

// One core does not fill the memory's bandwidth: large copies run on all threads.
constexpr int64_t kCopyGrain = 1 << 16;  // bytes that are worth a thread
Status copy(BackendDevice& cpu, void* to, const void* from, int64_t bytes) noexcept {
  parallel_ranges(cpu, bytes, kCopyGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin, end - begin);
  });
  return {};
}
Status fill(BackendDevice&, void* data, uint8_t byte, int64_t bytes) noexcept {
  std::memset(data, byte, bytes);
  return {};
}
Status synchronize(BackendDevice&) noexcept { return {}; }

Status packed_size(BackendDevice& cpu, int64_t rows, int64_t columns, DType dtype, Layout layout, int64_t* bytes) noexcept {
  try {
    *bytes = packed_bytes(cpu, rows, columns, dtype, layout);
    return {};
  } catch (...) {
    return status_of_current_exception();
  }
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown";
}

void describe(BackendDevice& cpu, char* text, int64_t capacity) noexcept {
  const int64_t target = hwy::SupportedTargets() & HWY_TARGETS;
  const char* best = hwy::TargetName(target & -target);
  snprintf(
      text, capacity,
      "{\"backend\":\"cpu\",\"processor\":\"%s\",\"threads\":%d,\"cores\":%d,\"simd\":\"%s\",\"gemm\":\"%s\",\"bf16Gemm\":%s}",
      processor_name().c_str(), cpu.threads, available_cores(), best, gemm_description().c_str(),
      gemm_has_bf16() ? "true" : "false");
}

}  // namespace

Status status_of_current_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return failure(error.code, error.message);
  } catch (const std::bad_alloc&) {
    return failure(Code::memory, "out of memory");
  } catch (const std::exception& error) {
    return failure(Code::late, error.what());
  } catch (...) {
    return failure(Code::late, "unknown error");
  }
}

#define KERNEL(family, Arguments) \
  template <>                     \
  Entry<Arguments> entry<Arguments>();
#include "native/kernels.def"
#undef KERNEL

}  // namespace sidetune::cpu

namespace sidetune {

const BackendTable& cpu_backend() {
  static const BackendTable table = [] {
    BackendTable t{kBackendVersion,   "cpu",         cpu::open, cpu::close, cpu::take_memory, cpu::give_memory,
                   cpu::memory_limit, cpu::copy,     cpu::copy, cpu::copy,  cpu::fill,        cpu::synchronize,
                   cpu::packed_size,  cpu::describe, {}};
#define KERNEL(family, Arguments) static_cast<Entry<Arguments>&>(t.kernels) = cpu::entry<Arguments>();
#include "native/kernels.def"
#undef KERNEL
    return t;
  }();
  return table;
}

}  // namespace sidetune
