#include "arena.h"

#include <algorithm>
#include <string>
#include <utility>

#include "sanitizer.h"

namespace sidetune {
namespace {

constexpr int64_t kAlignment = 64;

int64_t round_up(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

std::string megabytes(int64_t bytes) {
  char text[48];
  snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

// " (weights 1.0 MB, side 0.2 MB)", or nothing.
std::string by_kind(const MemoryReport& report) {
  std::string text;
  for (int i = 0; i < kKinds; i++) {
    if (report.current[i] == 0) continue;
    text += (text.empty() ? " (" : ", ") + std::string(name_of(static_cast<Kind>(i))) + " " + megabytes(report.current[i]);
  }
  return text.empty() ? text : text + ")";
}

}  // namespace

const char* name_of(Kind kind) {
  static const char* names[kKinds] = {"weights", "side", "activations", "gradients", "optimizer", "workspace", "data"};
  return names[static_cast<int>(kind)];
}

Arena::Arena(const BackendTable& table, BackendDevice& device, int64_t limit, int64_t guard, Backing backing)
    : table_(table), device_(device), guard_(round_up(guard, kAlignment)), backing_(backing) {
  report_.limit = limit;
}

Arena::~Arena() {
  for (const Slab& slab : slabs_) {
    if (backing_ == Backing::none) break;
    if (guard_) unpoison(slab.data, slab.bytes);
    table_.give_memory(device_, slab.data, slab.bytes);
  }
  for (const auto& [data, bytes] : separate_) table_.give_memory(device_, data, bytes);
}

void* Arena::take_memory(int64_t bytes, int64_t asked, Kind kind) {
  if (backing_ == Backing::none) return reinterpret_cast<void*>(std::exchange(next_address_, next_address_ + bytes));
  void* data = nullptr;
  const Status status = table_.take_memory(device_, bytes, &data);
  if (status.ok) return data;
  if (status.code != Code::memory) throw Error(status.code, status.text);
  throw Error(Code::memory, "", name_of(kind), megabytes(asked), status.text,
              "out of memory: asked for " + megabytes(asked) + " of " + name_of(kind) + ", in use " +
                  megabytes(report_.current_total) + by_kind(report_) + "; " + status.text);
}

char* Arena::take_from_slabs(int64_t needed, int64_t asked, Kind kind) {
  auto fit = free_by_size_.lower_bound({needed, nullptr});
  if (fit == free_by_size_.end()) {
    const int64_t size = std::max(table_.slab_bytes(device_), round_up(needed, int64_t{1} << 21));
    auto* slab = static_cast<char*>(take_memory(size, asked, kind));
    slabs_.push_back({slab, size});
    report_.reserved += size;
    insert_free(slab, size);
    fit = free_by_size_.lower_bound({needed, nullptr});
  }
  char* data = fit->second;
  const int64_t size = fit->first;
  erase_free(free_.find(data));
  if (size > needed) insert_free(data + needed, size - needed);
  return data;
}

void Arena::insert_free(char* data, int64_t bytes) {
  free_.emplace(data, bytes);
  free_by_size_.emplace(bytes, data);
}

void Arena::erase_free(std::map<char*, int64_t>::iterator range) {
  free_by_size_.erase({range->second, range->first});
  free_.erase(range);
}

void Arena::check_limit(int64_t bytes, const char* kind) const {
  if (bytes <= report_.limit - report_.current_total) return;
  const std::string expected = "at most " + megabytes(report_.limit - report_.current_total);
  throw Error(Code::memory, "", kind, megabytes(bytes), expected,
              "out of memory: asked for " + megabytes(bytes) + " of " + kind + ", in use " + megabytes(report_.current_total) +
                  by_kind(report_) + ", limit " + megabytes(report_.limit));
}

void Arena::count(int64_t bytes, Kind kind) {
  const int k = static_cast<int>(kind);
  report_.current[k] += bytes;
  report_.current_total += bytes;
  report_.blocks++;
  report_.peak[k] = std::max(report_.peak[k], report_.current[k]);
  if (report_.current_total > report_.peak_total) {
    report_.peak_total = report_.current_total;
    std::copy(report_.current, report_.current + kKinds, report_.at_peak);
  }
}

Block Arena::take(int64_t bytes, Kind kind) {
  check_limit(bytes, name_of(kind));
  const int64_t needed = round_up(std::max<int64_t>(bytes, 1), kAlignment) + 2 * guard_;
  char* data = nullptr;
  if (backing_ == Backing::separate) {
    data = static_cast<char*>(take_memory(needed, bytes, kind));
    report_.reserved += needed;
    const std::lock_guard<std::mutex> lock(mutex_);
    separate_.emplace(data, needed);
  } else {
    data = take_from_slabs(needed, bytes, kind);
  }
  count(bytes, kind);
  return {data + guard_, bytes, needed, kind};
}

void Arena::give(const Block& block) {
  if (backing_ == Backing::separate)
    report_.reserved -= block.reserved;
  else
    give_to_slabs(static_cast<char*>(block.data) - guard_, block.reserved);
  report_.current[static_cast<int>(block.kind)] -= block.bytes;
  report_.current_total -= block.bytes;
  report_.blocks--;
}

bool Arena::is_free(char* data, int64_t bytes) const {
  if (backing_ == Backing::separate) return true;
  const auto after = free_.upper_bound(data);
  if (after == free_.begin()) return false;
  const auto range = std::prev(after);
  return range->first + range->second >= data + bytes;
}

void Arena::take_again(const Block& block) {
  if (backing_ == Backing::separate) {
    report_.reserved += block.reserved;
  } else {
    char* const data = static_cast<char*>(block.data) - guard_;
    const auto range = std::prev(free_.upper_bound(data));
    const auto [start, bytes] = *range;
    erase_free(range);
    char* const end = data + block.reserved;
    if (start < data) insert_free(start, data - start);
    if (end < start + bytes) insert_free(end, start + bytes - end);
  }
  count(block.bytes, block.kind);
}

void MemoryUse::note(const MemoryReport& now, const MemoryReport& beginning) {
  for (int k = 0; k < kKinds; k++) peak[k] = std::max(peak[k], now.current[k] - beginning.current[k]);
  if (now.current_total - beginning.current_total <= total) return;
  total = now.current_total - beginning.current_total;
  for (int k = 0; k < kKinds; k++) at_peak[k] = now.current[k] - beginning.current[k];
}

void Arena::count_use(const MemoryUse& use) {
  check_limit(use.total, "recorded calls");
  for (int k = 0; k < kKinds; k++) report_.peak[k] = std::max(report_.peak[k], report_.current[k] + use.peak[k]);
  if (report_.current_total + use.total <= report_.peak_total) return;
  report_.peak_total = report_.current_total + use.total;
  for (int k = 0; k < kKinds; k++) report_.at_peak[k] = report_.current[k] + use.at_peak[k];
}

void Arena::release(const Block& block) {
  char* data = static_cast<char*>(block.data) - guard_;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    separate_.erase(data);
  }
  if (guard_) unpoison(data, block.reserved);
  table_.give_memory(device_, data, block.reserved);
}

void Arena::give_to_slabs(char* data, int64_t bytes) {
  auto next = free_.lower_bound(data);
  if (next != free_.end() && next->first == data + bytes) {
    bytes += next->second;
    const auto joined = next++;
    erase_free(joined);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == data) {
      data = before->first;
      bytes += before->second;
      erase_free(before);
    }
  }
  insert_free(data, bytes);
}

void Arena::reset_peak() {
  report_.peak_total = report_.current_total;
  std::copy(report_.current, report_.current + kKinds, report_.at_peak);
  std::copy(report_.current, report_.current + kKinds, report_.peak);
}

}  // namespace sidetune
