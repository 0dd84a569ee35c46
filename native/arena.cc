#include "arena.h"

#include <algorithm>
#include <string>

#include "sanitizer.h"

namespace sidetune {
namespace {

constexpr int64_t kAlignment = 64;
// Slabs are address space, not memory: the system gives pages as they are touched (CPU), so a generous size costs nothing.
// AddressSanitizer touches its own notes on every byte.
constexpr int64_t kSlabBytes = int64_t{1} << (kSanitized ? 26 : 30);

int64_t round_up(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

std::string megabytes(int64_t bytes) {
  char text[48];
  snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

}  // namespace

const char* name_of(Kind kind) {
  static const char* names[kKinds] = {"weights", "side", "activations", "gradients", "optimizer", "workspace", "data"};
  return names[static_cast<int>(kind)];
}

Arena::Arena(const BackendTable& table, BackendDevice& device, int64_t limit, int64_t guard)
    : table_(table), device_(device), guard_(round_up(guard, kAlignment)) {
  report_.limit = limit;
}

Arena::~Arena() {
  for (const Slab& slab : slabs_) {
    if (guard_) unpoison(slab.data, slab.bytes);
    table_.give_memory(device_, slab.data, slab.bytes);
  }
}

void Arena::add_slab(int64_t bytes, int64_t asked) {
  const int64_t size = std::max(kSlabBytes, round_up(bytes, int64_t{1} << 21));
  void* data = nullptr;
  table_.take_memory(device_, size, &data);
  if (!data) {
    throw Error(Code::memory, "", "", megabytes(asked), "free memory",
                "out of memory: asked for " + megabytes(asked) + ", in use " + megabytes(report_.current_total) +
                    ", and the system has no more");
  }
  slabs_.push_back({static_cast<char*>(data), size});
  report_.reserved += size;
  insert_free(static_cast<char*>(data), size);
}

void Arena::insert_free(char* data, int64_t bytes) {
  free_.emplace(data, bytes);
  free_by_size_.emplace(bytes, data);
}

void Arena::erase_free(std::map<char*, int64_t>::iterator range) {
  free_by_size_.erase({range->second, range->first});
  free_.erase(range);
}

Block Arena::take(int64_t bytes, Kind kind) {
  if (bytes > report_.limit - report_.current_total) {
    std::string by_kind;
    for (int i = 0; i < kKinds; i++)
      if (report_.current[i])
        by_kind +=
            (by_kind.empty() ? "" : ", ") + std::string(name_of(static_cast<Kind>(i))) + " " + megabytes(report_.current[i]);
    const std::string expected = "at most " + megabytes(report_.limit - report_.current_total);
    throw Error(Code::memory, "", name_of(kind), megabytes(bytes), expected,
                "out of memory: asked for " + megabytes(bytes) + " of " + name_of(kind) + ", in use " +
                    megabytes(report_.current_total) + (by_kind.empty() ? "" : " (" + by_kind + ")") + ", limit " +
                    megabytes(report_.limit));
  }
  const int64_t needed = round_up(std::max<int64_t>(bytes, 1), kAlignment) + 2 * guard_;
  auto fit = free_by_size_.lower_bound({needed, nullptr});
  if (fit == free_by_size_.end()) {
    add_slab(needed, bytes);
    fit = free_by_size_.lower_bound({needed, nullptr});
  }
  char* data = fit->second;
  const int64_t size = fit->first;
  erase_free(free_.find(data));
  if (size > needed) insert_free(data + needed, size - needed);

  const int k = static_cast<int>(kind);
  report_.current[k] += bytes;
  report_.current_total += bytes;
  report_.blocks++;
  report_.peak[k] = std::max(report_.peak[k], report_.current[k]);
  if (report_.current_total > report_.peak_total) {
    report_.peak_total = report_.current_total;
    std::copy(report_.current, report_.current + kKinds, report_.at_peak);
  }
  return {data + guard_, bytes, needed, kind};
}

void Arena::give(const Block& block) {
  char* data = static_cast<char*>(block.data) - guard_;
  int64_t bytes = block.reserved;
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
  report_.current[static_cast<int>(block.kind)] -= block.bytes;
  report_.current_total -= block.bytes;
  report_.blocks--;
}

void Arena::reset_peak() {
  report_.peak_total = report_.current_total;
  std::copy(report_.current, report_.current + kKinds, report_.at_peak);
  std::copy(report_.current, report_.current + kKinds, report_.peak);
}

}  // namespace sidetune
