#include "checker.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "errors.h"
#include "execution_state.h"
#include "observer.h"

namespace sidetune::emulation {
namespace {

// Time passes at beginnings of launches and blocks, at barriers and at __syncwarp; accesses between two of these have the same
// time. Time 0: never. Time 1: by the host or a library, in order with every launch.
std::atomic<uint32_t> clock_of_process{1};
constexpr uint32_t kByStream = 1;

// The latest access of one kind to a byte, and who else made one that still matters.
struct Record {
  uint32_t time;
  uint16_t site;
  uint16_t thread : 10, is_atomic : 1, other_lanes : 1, other_warps : 1, other_blocks : 1;
};
struct Cell {
  Record write, read;
};
static_assert(sizeof(Cell) == 16, "sixteen bytes for each byte of memory");

// Address space: what is not touched takes no memory and is zero.
Cell* make_cells(size_t count) {
  void* cells = mmap(nullptr, count * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (cells == MAP_FAILED) throw std::bad_alloc();
  return static_cast<Cell*>(cells);
}
// Zeros them; whole pages go back to the system.
void clear_cells(Cell* cells, size_t count) {
  constexpr uintptr_t kPage = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(cells), end = begin + count * sizeof(Cell);
  const uintptr_t first = std::min(end, (begin + kPage - 1) / kPage * kPage), last = std::max(first, end / kPage * kPage);
  std::memset(cells, 0, first - begin);
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  std::memset(reinterpret_cast<void*>(last), 0, end - last);
}
void free_cells(Cell* cells, size_t count) { munmap(cells, count * sizeof(Cell)); }

struct Region {
  const char *begin = nullptr, *end = nullptr;
  Cell* cells = nullptr;
};

struct Traffic {
  long long read = 0, written = 0, raw_read = 0, raw_written = 0;
};

struct Shadow {
  std::mutex mutex;
  std::map<const char*, Region> regions;   // of global memory, by begin
  std::map<std::string, Traffic> traffic;  // by kernel
};
Shadow& shadow() {
  static Shadow& lasting = *new Shadow;
  return lasting;
}

// Sites by number, so that a record has room for one: an open table, number 0 for none.
class Sites {
 public:
  uint16_t number_of(const Site& site) {
    const auto key = site.instruction ? reinterpret_cast<uintptr_t>(site.instruction)
                                      : reinterpret_cast<uintptr_t>(site.file) + static_cast<uintptr_t>(site.line);
    for (uint32_t slot = static_cast<uint32_t>((key * 0x9e3779b97f4a7c15u) >> 48), tries = 0; tries < 16;
         slot = (slot + 1) & 0xffff, tries++) {
      Site& entry = sites_[slot];
      if (entry.instruction == site.instruction && entry.file == site.file && entry.line == site.line)
        return static_cast<uint16_t>(slot);
      if (slot != 0 && !entry.instruction && !entry.file) {
        entry = site;
        return static_cast<uint16_t>(slot);
      }
    }
    return 0;
  }
  const Site& at(uint16_t number) const { return sites_[number]; }

 private:
  std::array<Site, 1 << 16> sites_ = {};
};

// The launch that an operating system's thread runs.
struct Watch {
  uint32_t now = 0, launch_begin = 0, block_begin = 0, last_barrier = 0;
  struct Sync {
    uint32_t time, mask;
  };
  std::array<Sync, Execution::kMostThreads> syncs;  // each thread's last __syncwarp
  std::vector<Region> regions;
  Region region;  // the last one that was touched
  Region shared;
  Region arguments;  // no cells
  std::string kernel;
  Traffic traffic;
  Sites sites;

  Watch() {
    shared.begin = reinterpret_cast<const char*>(sidetune_shared);
    shared.end = shared.begin + sizeof sidetune_shared;
    shared.cells = make_cells(sizeof sidetune_shared);
  }
  ~Watch() { free_cells(shared.cells, sizeof sidetune_shared); }
};
thread_local std::unique_ptr<Watch> watch_of_thread;
__thread Watch* watch = nullptr;

std::string text_of(const Site& site) {
  return site.instruction ? text_of_instruction(site.instruction) : std::string(site.file) + ":" + std::to_string(site.line);
}

std::string text_of_thread(int thread) {
  const auto index = static_cast<unsigned>(thread);
  return "(" + std::to_string(index % blockDim.x) + ", " + std::to_string(index / blockDim.x % blockDim.y) + ", " +
         std::to_string(index / blockDim.x / blockDim.y) + ")";
}

const char* verb_of(Access access) {
  return access == Access::read ? "reads " : access == Access::write ? "writes " : "changes by an atomic operation ";
}

// What is accessed, for a report.
struct Target {
  const void* data;
  size_t bytes;
  Access access;
  Site site;
  const Region* region;

  std::string text() const {
    const bool is_shared = region == &watch->shared;
    const auto offset = static_cast<const char*>(data) - region->begin;
    return verb_of(access) + std::to_string(bytes) + " bytes of " + (is_shared ? "shared" : "global") + " memory (offset " +
           std::to_string(offset) + (is_shared ? ")" : " of " + std::to_string(region->end - region->begin) + ")");
  }
};

[[noreturn]] void fail_at(const Site& site, const std::string& what) {
  running->fail({}, "%s: %s", text_of(site).c_str(), what.c_str());
}

[[noreturn]] void fail_race(const Target& target, const Record& other, bool other_wrote) {
  const bool is_other_block = other.other_blocks || other.time < watch->block_begin;
  fail_at(target.site, target.text() + ", which " +
                           (is_other_block ? "a thread of another block" : "thread " + text_of_thread(other.thread)) +
                           (other_wrote ? " wrote" : " read") + " at " + text_of(watch->sites.at(other.site)) +
                           (is_other_block ? " in the same launch" : " with no barrier in between"));
}

bool are_in_one_warp(int one, int other) { return one / 32 == other / 32; }

// Whether __syncwarp has put the other thread's access before what `thread` does now.
bool is_ordered_in_warp(const Record& other, int thread) {
  const Watch::Sync& sync = watch->syncs[thread];
  return other.time < sync.time && (sync.mask >> (other.thread % 32) & 1);
}

// Whether nothing orders the recorded accesses and one by `thread` now.
bool conflicts(const Record& other, int thread) {
  if (other.time < watch->launch_begin) return false;
  if (other.other_blocks || other.time < watch->block_begin) return true;
  if (other.time < watch->last_barrier) return false;
  if (other.other_warps || !are_in_one_warp(other.thread, thread)) return true;
  if (is_ordered_in_warp(other, thread)) return false;
  return other.other_lanes || other.thread != thread;
}

// Puts an access of `thread` on record. Earlier ones by others that no barrier has settled are remembered as marks.
void put_on_record(Record& record, int thread, uint16_t site, bool is_atomic) {
  Record next = {watch->now, site, static_cast<uint16_t>(thread), is_atomic, 0, 0, 0};
  if (record.time >= watch->launch_begin) {
    next.other_blocks = record.other_blocks || record.time < watch->block_begin;
    if (record.time >= watch->block_begin && record.time >= watch->last_barrier) {
      next.other_warps = record.other_warps || !are_in_one_warp(record.thread, thread);
      if (are_in_one_warp(record.thread, thread) && !is_ordered_in_warp(record, thread))
        next.other_lanes = record.other_lanes || record.thread != thread;
    }
  }
  record = next;
}

void check_shared_byte(const Target& target, Cell& cell, int thread, uint16_t site) {
  if (target.access == Access::read) {
    if (cell.write.time < watch->block_begin) fail_at(target.site, target.text() + ", which its block never wrote");
    if (conflicts(cell.write, thread)) fail_race(target, cell.write, true);
    put_on_record(cell.read, thread, site, false);
    return;
  }
  const bool is_atomic = target.access == Access::atomic;
  if (is_atomic && cell.write.time < watch->block_begin) fail_at(target.site, target.text() + ", which its block never wrote");
  // Before this block, another one had the memory.
  if (cell.write.time >= watch->block_begin) {
    if (conflicts(cell.write, thread) && !(is_atomic && cell.write.is_atomic)) fail_race(target, cell.write, true);
  } else {
    cell.write = {};
  }
  if (cell.read.time >= watch->block_begin) {
    if (conflicts(cell.read, thread)) fail_race(target, cell.read, false);
  } else {
    cell.read = {};
  }
  put_on_record(cell.write, thread, site, is_atomic);
}

void check_global_byte(const Target& target, Cell& cell, int thread, uint16_t site) {
  const bool is_atomic = target.access == Access::atomic;
  if (target.access != Access::write && cell.write.time == 0) fail_at(target.site, target.text() + ", which was never written");
  if (conflicts(cell.write, thread) && !(is_atomic && cell.write.is_atomic)) fail_race(target, cell.write, true);
  if (target.access == Access::read) {
    watch->traffic.read += cell.read.time < watch->launch_begin;
    put_on_record(cell.read, thread, site, false);
    return;
  }
  if (conflicts(cell.read, thread)) fail_race(target, cell.read, false);
  watch->traffic.written += cell.write.time < watch->launch_begin;
  watch->traffic.read += is_atomic && cell.write.time < watch->launch_begin;
  put_on_record(cell.write, thread, site, is_atomic);
}

bool is_in(const Region& region, const void* data, size_t bytes) {
  const auto* at = static_cast<const char*>(data);
  return at >= region.begin && at + bytes <= region.end;
}

// The region of global memory that the address is in, or null.
const Region* find_region(const void* data) {
  if (is_in(watch->region, data, 1)) return &watch->region;
  auto after = std::upper_bound(watch->regions.begin(), watch->regions.end(), static_cast<const char*>(data),
                                [](const char* at, const Region& region) { return at < region.begin; });
  if (after == watch->regions.begin() || !is_in(*std::prev(after), data, 1)) return nullptr;
  watch->region = *std::prev(after);
  return &watch->region;
}

// Constants of this library. Kernels may read them: under nvcc they are folded into the code.
const std::vector<Region>& constants() {
  static const std::vector<Region>& lasting = *new std::vector<Region>([] {
    std::vector<Region> found;
    const auto visit = [](dl_phdr_info* info, size_t, void* all) {
      std::vector<Region> constant;
      bool is_ours = false;
      for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr)& part = info->dlpi_phdr[i];
        const auto* begin = reinterpret_cast<const char*>(info->dlpi_addr + part.p_vaddr);
        const Region region = {begin, begin + part.p_memsz, nullptr};
        if (part.p_type == PT_LOAD && is_in(region, reinterpret_cast<const void*>(&find_region), 1)) is_ours = true;
        if ((part.p_type == PT_LOAD && !(part.p_flags & PF_W)) || part.p_type == PT_GNU_RELRO) constant.push_back(region);
      }
      if (is_ours) *static_cast<std::vector<Region>*>(all) = constant;
      return is_ours ? 1 : 0;
    };
    dl_iterate_phdr(visit, &found);
    return found;
  }());
  return lasting;
}

bool is_index(const void* data) {
  for (const void* index : {static_cast<const void*>(&threadIdx), static_cast<const void*>(&blockIdx),
                            static_cast<const void*>(&blockDim), static_cast<const void*>(&gridDim)})
    if (data >= index && data < static_cast<const char*>(index) + sizeof(uint3)) return true;
  return false;
}

// An address that is neither local, nor shared, nor inside an allocation.
void check_elsewhere(const void* data, size_t bytes, Access access, const Site& site) {
  if (access == Access::read) {
    if (is_in(watch->arguments, data, bytes) || is_index(data)) return;
    for (const Region& region : constants())
      if (is_in(region, data, bytes)) return;
  }
  const auto* at = static_cast<const char*>(data);
  const std::string what = verb_of(access) + std::to_string(bytes) + " bytes ";
  constexpr ptrdiff_t kNear = 4096;
  for (const Region& region : watch->regions) {
    const std::string size = " an allocation of " + std::to_string(region.end - region.begin) + " bytes";
    if (at >= region.end && at - region.end < kNear)
      fail_at(site, what + std::to_string(at - region.end) + " bytes past the end of" + size);
    if (at < region.begin && region.begin - at < kNear)
      fail_at(site, what + std::to_string(region.begin - at) + " bytes before the beginning of" + size);
  }
  fail_at(site, what + "that are no memory of the device");
}

void check(const void* data, size_t bytes, Access access, const Site& site, int thread) {
  if (running->is_on_stack(data)) return;
  if (is_in(watch->shared, data, 1)) {
    const Target target = {data, bytes, access, site, &watch->shared};
    const auto offset = static_cast<size_t>(static_cast<const char*>(data) - watch->shared.begin);
    const size_t shared_bytes = running->launch().shared_bytes;
    if (offset + bytes > shared_bytes)
      fail_at(site, target.text() + ", past the " + std::to_string(shared_bytes) + " of the launch");
    const uint16_t number = watch->sites.number_of(site);
    for (size_t i = 0; i < bytes; i++) check_shared_byte(target, watch->shared.cells[offset + i], thread, number);
    return;
  }
  const Region* region = find_region(data);
  if (!region) return check_elsewhere(data, bytes, access, site);
  const Target target = {data, bytes, access, site, region};
  const auto offset = static_cast<const char*>(data) - region->begin;
  if (!is_in(*region, data, bytes)) fail_at(site, target.text() + ", past the end");
  const uint16_t number = watch->sites.number_of(site);
  for (size_t i = 0; i < bytes; i++) check_global_byte(target, region->cells[static_cast<size_t>(offset) + i], thread, number);
  if (access != Access::write) watch->traffic.raw_read += static_cast<long long>(bytes);
  if (access != Access::read) watch->traffic.raw_written += static_cast<long long>(bytes);
}

// The mutex is held. The cells of an allocation, made when they are first asked for.
Region& region_of(const Allocation& allocation) {
  Region& region = shadow().regions[allocation.begin];
  if (!region.cells) region = {allocation.begin, allocation.begin + allocation.bytes, make_cells(allocation.bytes)};
  return region;
}

// Calls visit(cells) for memory on the device.
template <class Visit>
void with_cells(const void* data, const Visit& visit) {
  const Allocation allocation = allocation_of(data);
  if (!allocation || allocation.is_pinned) return;
  const std::lock_guard lock(shadow().mutex);
  visit(region_of(allocation).cells + (static_cast<const char*>(data) - allocation.begin));
}

class Checker final : public Observer {
 public:
  void begin_launch(const Launch& launch) override {
    if (!watch_of_thread) watch_of_thread = std::make_unique<Watch>();
    watch = watch_of_thread.get();
    watch->regions.clear();
    watch->region = {};
    const auto* arguments = reinterpret_cast<const char*>(launch.call);
    watch->arguments = {arguments, arguments + launch.call->bytes, nullptr};
    watch->kernel = kernel_name(launch.call->kernel);
    watch->traffic = {};
    watch->now = watch->launch_begin = ++clock_of_process;
    const std::vector<Allocation> allocations = device_allocations();
    const std::lock_guard lock(shadow().mutex);
    for (const Allocation& allocation : allocations) watch->regions.push_back(region_of(allocation));
  }
  void end_launch() override {
    const std::lock_guard lock(shadow().mutex);
    Traffic& sum = shadow().traffic[watch->kernel];
    sum.read += watch->traffic.read, sum.written += watch->traffic.written;
    sum.raw_read += watch->traffic.raw_read, sum.raw_written += watch->traffic.raw_written;
  }
  void begin_block() override {
    watch->now = watch->block_begin = watch->last_barrier = ++clock_of_process;
    watch->syncs.fill({0, 0});
  }
  void block_barrier() override { watch->now = watch->last_barrier = ++clock_of_process; }
  void warp_barrier(int first_thread, unsigned mask) override {
    watch->now = ++clock_of_process;
    for (int lane = 0; lane < 32; lane++)
      if (mask >> lane & 1) watch->syncs[first_thread + lane] = {watch->now, mask};
  }
  void read(int thread, const void* data, size_t bytes, Place place) override {
    check(data, bytes, Access::read, {nullptr, place.file, place.line}, thread);
  }
  void written(int thread, const void* data, size_t bytes, Place place) override {
    check(data, bytes, Access::write, {nullptr, place.file, place.line}, thread);
  }
  void awaited(const void* shared, size_t bytes) override {
    Cell* cells = watch->shared.cells + (static_cast<const char*>(shared) - watch->shared.begin);
    for (size_t i = 0; i < bytes; i++) cells[i].write = {};
  }

  void written_by_stream(const void* data, size_t bytes) override {
    with_cells(data, [bytes](Cell* cells) {
      for (size_t i = 0; i < bytes; i++) cells[i].write = {kByStream, 0, 0, 0, 0, 0, 0};
    });
  }
  void filled_with_nan(const void* data, size_t bytes) override {
    with_cells(data, [bytes](Cell* cells) { clear_cells(cells, bytes); });
  }
  void copied_by_stream(const void* to, const void* from, size_t bytes) override {
    std::vector<bool> is_written(bytes);
    with_cells(from, [&](const Cell* cells) {
      for (size_t i = 0; i < bytes; i++) is_written[i] = cells[i].write.time != 0;
    });
    with_cells(to, [&](Cell* cells) {
      for (size_t i = 0; i < bytes; i++) cells[i].write = {is_written[i] ? kByStream : 0, 0, 0, 0, 0, 0, 0};
    });
  }
  bool read_by_stream(const std::string& what, const void* data, size_t bytes) override {
    size_t written = 0;
    with_cells(data, [&](const Cell* cells) {
      while (written < bytes && cells[written].write.time != 0) written++;
    });
    if (written == bytes) return true;
    report(what + " has bytes that were never written");
    return false;
  }
  void forget(const Allocation& allocation) override {
    const std::lock_guard lock(shadow().mutex);
    const auto found = shadow().regions.find(allocation.begin);
    if (found == shadow().regions.end()) return;
    free_cells(found->second.cells, static_cast<size_t>(found->second.end - found->second.begin));
    shadow().regions.erase(found);
  }
};

[[maybe_unused]] const bool is_watching = [] {
  static Checker checker;
  observer = &checker;
  return true;
}();

}  // namespace

void check_access(const void* data, size_t bytes, Access access, const void* instruction) {
  if (!running) return;
  check(data, bytes, access, {instruction, nullptr, 0}, running->thread());
}

void check_alignment(const void* address, size_t alignment, bool writes) {
  if (!running || reinterpret_cast<uintptr_t>(address) % alignment == 0) return;
  fail_at({__builtin_return_address(0), nullptr, 0}, std::string(writes ? "writes" : "reads") + " a vector of " +
                                                         std::to_string(alignment) +
                                                         " bytes at an address that is no multiple of it");
}

namespace {

std::string find_line(const void* instruction) {
  Dl_info info = {};
  if (!dladdr(instruction, &info) || !info.dli_fname) return "(unknown line)";
  // A position-independent file has addresses from nought; the call is before the address that it returns to.
  const auto* header = static_cast<const ElfW(Ehdr)*>(info.dli_fbase);
  const auto base = header->e_type == ET_EXEC ? 0 : reinterpret_cast<uintptr_t>(info.dli_fbase);
  char command[4096];
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
                reinterpret_cast<uintptr_t>(instruction) - base - 1);
  // From the inlined function outwards; how the emulation does it is of no interest.
  std::vector<std::string> lines;
  if (FILE* pipe = popen(command, "r")) {
    for (char line[1024]; std::fgets(line, sizeof line, pipe);)
      if (line[0] != '?' && !std::strstr(line, "/include/emulation/")) lines.emplace_back(line, std::strcspn(line, " \n"));
    pclose(pipe);
  }
  if (lines.empty()) return "(unknown line)";
  return lines.front() + (lines.size() > 1 ? " (for " + lines.back() + ")" : "");
}

}  // namespace

std::string text_of_instruction(const void* instruction) {
  static std::mutex mutex;
  static auto& texts = *new std::map<const void*, std::string>;
  const std::lock_guard lock(mutex);
  std::string& text = texts[instruction];
  if (text.empty()) text = find_line(instruction);
  return text;
}

}  // namespace sidetune::emulation

using namespace sidetune::emulation;

// For tests that hold kernels to the bytes they must move: sums over the kernels whose names contain `part`.
#define SIDETUNE_EXPORTED extern "C" __attribute__((visibility("default")))

// Global memory, each byte once a launch and direction.
SIDETUNE_EXPORTED void sidetune_emulation_traffic(const char* part, long long* read, long long* written) {
  const std::lock_guard lock(shadow().mutex);
  *read = *written = 0;
  for (const auto& [kernel, traffic] : shadow().traffic) {
    if (kernel.find(part) == std::string::npos) continue;
    *read += traffic.read;
    *written += traffic.written;
  }
}

// Global memory, each access.
SIDETUNE_EXPORTED void sidetune_emulation_raw_traffic(const char* part, long long* read, long long* written) {
  const std::lock_guard lock(shadow().mutex);
  *read = *written = 0;
  for (const auto& [kernel, traffic] : shadow().traffic) {
    if (kernel.find(part) == std::string::npos) continue;
    *read += traffic.raw_read;
    *written += traffic.raw_written;
  }
}

SIDETUNE_EXPORTED void sidetune_emulation_reset_traffic() {
  const std::lock_guard lock(shadow().mutex);
  shadow().traffic.clear();
}
