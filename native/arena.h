// A device's memory: blocks are taken and given back in the order of calls, so a block freed by JavaScript is reusable by the
// next call even while the stream is behind (the stream runs in the same order). Current and peak bytes are therefore a
// deterministic number for a given program.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "backend.h"

namespace sidetune {

enum class Kind : uint8_t { weights, side, activations, gradients, optimizer, workspace, data };
constexpr int kKinds = 7;
const char* name_of(Kind kind);

struct Block {
  void* data = nullptr;
  int64_t bytes = 0;     // what was asked for: this is what memory reports count
  int64_t reserved = 0;  // what was taken: rounded up, with guards where they are on
  Kind kind = Kind::activations;
};

struct MemoryReport {
  int64_t current[kKinds] = {};
  int64_t at_peak[kKinds] = {};  // by kind, at the moment of the highest total
  int64_t peak[kKinds] = {};     // highest of each kind on its own
  int64_t current_total = 0, peak_total = 0;
  int64_t reserved = 0;  // taken from the system
  int64_t limit = 0;
  int64_t blocks = 0;  // blocks in use
};

// The highest figures of a stretch of time, less what was in use at its beginning.
struct MemoryUse {
  int64_t at_peak[kKinds] = {}, peak[kKinds] = {}, total = 0;

  void note(const MemoryReport& now, const MemoryReport& beginning);
};

// Where blocks lie.
enum class Backing : uint8_t {
  slabs,     // cut out of large pieces of the device's memory
  separate,  // each is taken from the device on its own, so that tools which watch every access know where it ends
  none       // nowhere: their addresses are only numbers, for a device that plans
};

class Arena {
 public:
  // `guard` bytes lie unused before and after each block; tests fill and inspect them.
  Arena(const BackendTable& table, BackendDevice& device, int64_t limit, int64_t guard, Backing backing = Backing::slabs);
  ~Arena();
  Arena(const Arena&) = delete;

  // Best fit; throws Error(memory) when the limit would be passed or the system has no more. Never returns a null block, even for
  // 0 bytes.
  Block take(int64_t bytes, Kind kind);
  void give(const Block& block);
  // Whether no block in use lies in a range of addresses that was taken before; with Backing::separate always.
  bool is_free(char* data, int64_t bytes) const;
  // Takes a block where it lay before. Its bytes must be free; with Backing::separate they must not have been released.
  void take_again(const Block& block);
  // Counts blocks that lie in free memory for a moment: `use` says how far they go beyond what is in use now. Throws
  // Error(memory) when the limit would be passed.
  void count_use(const MemoryUse& use);
  // With Backing::separate, give() only counts: the bytes themselves go back here, when the stream is done with them. On any
  // thread.
  void release(const Block& block);

  Backing backing() const { return backing_; }
  const MemoryReport& report() const { return report_; }
  void reset_peak();
  int64_t guard() const { return guard_; }

 private:
  struct Slab {
    char* data;
    int64_t bytes;
  };
  void* take_memory(int64_t bytes, int64_t asked, Kind kind);
  char* take_from_slabs(int64_t needed, int64_t asked, Kind kind);
  void check_limit(int64_t bytes, const char* kind) const;
  void count(int64_t bytes, Kind kind);
  void give_to_slabs(char* data, int64_t bytes);
  void insert_free(char* data, int64_t bytes);
  void erase_free(std::map<char*, int64_t>::iterator range);

  const BackendTable& table_;
  BackendDevice& device_;
  const int64_t guard_;
  const Backing backing_;
  std::vector<Slab> slabs_;
  std::map<char*, int64_t> free_;                     // by address, to join neighbours
  std::set<std::pair<int64_t, char*>> free_by_size_;  // by size, to find the best fit
  int64_t next_address_ = int64_t{1} << 40;           // with Backing::none
  std::mutex mutex_;                                  // guards the next line
  std::map<void*, int64_t> separate_;                 // bytes taken and not released, with Backing::separate
  MemoryReport report_;
};

}  // namespace sidetune
