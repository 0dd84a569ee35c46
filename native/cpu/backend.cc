#include "backend.h"

#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <new>
#include <string>

#include "gemm.h"
#include "hwy/highway.h"
#include "parallel.h"
#include "../sanitizer.h"

namespace sidetune::cpu {
namespace {

// The text of a variable, as far as a sentence has room for it.
std::string quoted(const char* text) { return "'" + std::string(text, strnlen(text, 40)) + "'"; }

// More threads than cores are allowed for tests of what many threads compute.
int most_threads() { return 4 * available_cores(); }
std::string threads_expected() {
  return "a whole number from 1 to " + std::to_string(most_threads()) + " (4 for each of the " +
         std::to_string(available_cores()) + " cores that this process may use)";
}

// SIDETUNE_NUM_THREADS is ours and must be right. OMP_NUM_THREADS speaks to every OpenMP program: of a list ("4,2") the first
// number counts, it may ask for more than there are, and what is no number is none of our business.
Status default_threads(int* threads) {
  if (const char* text = std::getenv("SIDETUNE_NUM_THREADS"); text && *text) {
    const char* end = text + std::strlen(text);
    const auto [rest, error] = std::from_chars(text, end, *threads);
    if (error == std::errc() && rest == end && *threads >= 1 && *threads <= most_threads()) return {};
    return refusal("SIDETUNE_NUM_THREADS", quoted(text), threads_expected());
  }
  const char* text = std::getenv("OMP_NUM_THREADS");
  const int64_t cores = available_cores(), asked = text ? std::strtol(text, nullptr, 10) : 0;
  *threads = static_cast<int>(asked > 0 ? std::min(asked, cores) : cores);
  return {};
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
    if (!allowed) return refusal("SIDETUNE_SIMD", quoted(wanted), "one of " + known);
    hwy::SetSupportedTargetsForTest(allowed);
  }
  hwy::GetChosenTarget().Update(allowed);
  return {};
}

Status count(int* devices) noexcept {
  *devices = 1;
  return {};
}

Status open(const DeviceOptions& options, BackendDevice** out) noexcept {
  try {
    if (options.tf32) return refusal("tf32", "true", "no such option: it is for CUDA devices");
    if (options.threads < 0 || options.threads > most_threads())
      return refusal("threads", std::to_string(options.threads), threads_expected());
    int threads = options.threads;
    if (const Status status = threads > 0 ? Status() : default_threads(&threads); !status.ok) return status;
    if (const Status status = choose_simd(); !status.ok) return status;
    *out = new BackendDevice(threads);
    return {};
  } catch (...) {
    return status_of_current_exception();
  }
}

void close(BackendDevice* cpu) noexcept { delete cpu; }

// Address space without memory behind it: pages come when they are touched, large ones where the system has them.
Status take_memory(BackendDevice&, int64_t bytes, void** data) noexcept {
  *data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*data == MAP_FAILED) return failure(Code::memory, "the system has no more address space");
  madvise(*data, bytes, MADV_HUGEPAGE);
  return {};
}
void give_memory(BackendDevice&, void* data, int64_t bytes) noexcept { munmap(data, bytes); }

// A generous size costs nothing. AddressSanitizer touches its own notes on every byte.
int64_t slab_bytes(BackendDevice&) noexcept { return int64_t{1} << (kSanitized ? 26 : 30); }

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
  const Team team(cpu);
  parallel_ranges(cpu, bytes, kCopyGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin, end - begin);
  });
  return {};
}
Status fill(BackendDevice& cpu, void* data, uint8_t byte, int64_t bytes) noexcept {
  const Team team(cpu);
  parallel_ranges(cpu, bytes, kCopyGrain,
                  [&](int64_t begin, int64_t end) { std::memset(static_cast<std::byte*>(data) + begin, byte, end - begin); });
  return {};
}
Status synchronize(BackendDevice&) noexcept { return {}; }
Status settle(BackendDevice&) noexcept { return {}; }

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
  snprintf(text, capacity,
           "{\"backend\":\"cpu\",\"processor\":\"%s\",\"threads\":%d,\"cores\":%d,\"simd\":\"%s\",\"gemm\":\"%s\",\"bf16Gemm\":%"
           "s,\"int8Levels\":%d}",
           processor_name().c_str(), cpu.threads, available_cores(), best, gemm_description().c_str(),
           gemm_has_bf16() ? "true" : "false", int8_levels());
}

}  // namespace

#define KERNEL(family, Arguments) \
  template <>                     \
  Entry<Arguments> entry<Arguments>();
#include "native/kernels.def"
#undef KERNEL

}  // namespace sidetune::cpu

namespace sidetune {

BackendDevice::BackendDevice(int threads)
    : threads(threads),
      team(threads),
      share(cpu::Cores::of_process(), threads),
      gemms(std::make_shared<cpu::GemmCache>(threads)) {}

const BackendTable& cpu_backend() {
  static const BackendTable table = [] {
    BackendTable t{kBackendVersion,  "cpu",
                   cpu::count,       cpu::open,
                   nullptr,          cpu::close,
                   cpu::take_memory, cpu::give_memory,
                   cpu::slab_bytes,  cpu::memory_limit,
                   cpu::copy,        cpu::copy,
                   cpu::copy,        cpu::fill,
                   cpu::synchronize, cpu::settle,
                   nullptr,          nullptr,
                   nullptr,          nullptr,
                   cpu::packed_size, false,
                   cpu::describe,    {}};
#define KERNEL(family, Arguments) static_cast<Entry<Arguments>&>(t.kernels) = cpu::entry<Arguments>();
#include "native/kernels.def"
#undef KERNEL
    return t;
  }();
  return table;
}

}  // namespace sidetune
