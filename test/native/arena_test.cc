#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>

#include "native/arena.h"
#include "native/status.h"
#include "testing.h"

namespace sidetune {
namespace {

// The CPU's memory, with an arena on it.
struct Memory {
  BackendTable table = cpu_backend();
  BackendDevice* device = nullptr;
  std::unique_ptr<Arena> arena;

  explicit Memory(int64_t limit = int64_t{1} << 40, int64_t guard = 0) {
    if (!table.open({}, &device).ok) throw Error(Code::device, "no CPU");
    arena = std::make_unique<Arena>(table, *device, limit, guard);
  }
  ~Memory() {
    arena.reset();
    table.close(device);
  }
  Block take(int64_t bytes, Kind kind = Kind::activations) { return arena->take(bytes, kind); }
  void give(const Block& block) { arena->give(block); }
};

Error error_of(Memory& memory, int64_t bytes, Kind kind) {
  try {
    memory.take(bytes, kind);
  } catch (const Error& error) {
    return error;
  }
  return Error(Code::argument, "nothing was thrown");
}

int64_t distance(const Block& from, const Block& to) { return static_cast<char*>(to.data) - static_cast<char*>(from.data); }

TEST(arena_takes_the_best_fit) {
  Memory memory;
  const Block large = memory.take(4096), wall1 = memory.take(64), small = memory.take(1024), wall2 = memory.take(64);
  memory.give(large);
  memory.give(small);
  CHECK_EQUAL(memory.take(1000).data, small.data);  // not the larger hole, which lies first
  CHECK_EQUAL(memory.take(1025).data, large.data);
  CHECK(distance(wall1, wall2) > 0);
}

TEST(arena_joins_neighbours) {
  const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (const auto& order : orders) {
    Memory memory;
    const Block blocks[3] = {memory.take(640), memory.take(1280), memory.take(64)};
    const Block wall = memory.take(64);
    for (int index : order) memory.give(blocks[index]);
    CHECK_EQUAL(memory.take(640 + 1280 + 64).data, blocks[0].data);
    CHECK(wall.data != blocks[0].data);
  }
}

TEST(arena_aligns_and_never_gives_null) {
  Memory memory;
  const Block empty = memory.take(0), other = memory.take(0), odd = memory.take(7), next = memory.take(1);
  for (const Block* block : {&empty, &other, &odd, &next}) {
    CHECK(block->data != nullptr);
    CHECK_EQUAL(reinterpret_cast<uintptr_t>(block->data) % 64, 0u);
  }
  CHECK(empty.data != other.data);
  CHECK_EQUAL(memory.arena->report().current_total, 8);
}

TEST(arena_keeps_guards_apart) {
  Memory memory(int64_t{1} << 40, 100);
  CHECK_EQUAL(memory.arena->guard(), 128);  // rounded up to the alignment
  const Block a = memory.take(10), b = memory.take(10);
  CHECK_EQUAL(distance(a, b), 64 + 2 * 128);
  CHECK_EQUAL(memory.arena->report().current_total, 20);  // guards are not the user's bytes
}

TEST(arena_counts_by_kind) {
  Memory memory;
  const Block weights = memory.take(100, Kind::weights), scratch = memory.take(1000, Kind::workspace);
  memory.give(scratch);
  const Block grads = memory.take(50, Kind::gradients);
  const MemoryReport& report = memory.arena->report();
  const auto of = [](const int64_t(&bytes)[kKinds], Kind kind) { return bytes[static_cast<int>(kind)]; };
  CHECK_EQUAL(report.current_total, 150);
  CHECK_EQUAL(report.peak_total, 1100);
  CHECK_EQUAL(report.blocks, 2);
  CHECK_EQUAL(of(report.current, Kind::workspace), 0);
  CHECK_EQUAL(of(report.at_peak, Kind::workspace), 1000);
  CHECK_EQUAL(of(report.at_peak, Kind::gradients), 0);
  CHECK_EQUAL(of(report.peak, Kind::gradients), 50);
  memory.arena->reset_peak();
  CHECK_EQUAL(report.peak_total, 150);
  CHECK_EQUAL(of(report.at_peak, Kind::gradients), 50);
  CHECK_EQUAL(of(report.peak, Kind::workspace), 0);
  memory.give(weights);
  memory.give(grads);
  CHECK_EQUAL(report.current_total, 0);
  CHECK_EQUAL(report.peak_total, 150);
}

TEST(arena_holds_its_limit) {
  Memory memory(2'000'000);
  const Block weights = memory.take(1'500'000, Kind::weights);
  const Error error = error_of(memory, 600'000, Kind::side);
  CHECK(error.code == Code::memory);
  CHECK_EQUAL(error.message, "out of memory: asked for 0.6 MB of side, in use 1.5 MB (weights 1.5 MB), limit 2.0 MB");
  CHECK_EQUAL(error.got, "0.6 MB");
  CHECK_EQUAL(error.expected, "at most 0.5 MB");
  CHECK_EQUAL(memory.arena->report().current_total, 1'500'000);
  CHECK_EQUAL(memory.arena->report().peak_total, 1'500'000);
  CHECK_EQUAL(memory.arena->report().blocks, 1);
  CHECK(error_of(memory, std::numeric_limits<int64_t>::max(), Kind::side).code == Code::memory);
  const Block rest = memory.take(500'000, Kind::side);  // exactly up to it
  CHECK(error_of(memory, 1, Kind::side).code == Code::memory);
  memory.give(rest);
  memory.give(weights);
  memory.give(memory.take(2'000'000));
}

TEST(arena_says_when_the_system_has_no_more) {
  Memory memory;
  memory.table.take_memory = [](BackendDevice&, int64_t, void**) noexcept {
    return failure(Code::memory, "the device has 0 MiB free");
  };
  const Error error = error_of(memory, 1'000'000, Kind::side);
  CHECK(error.code == Code::memory);
  CHECK_EQUAL(error.message, "out of memory: asked for 1.0 MB of side, in use 0.0 MB; the device has 0 MiB free");
  CHECK_EQUAL(memory.arena->report().blocks, 0);
}

TEST(arena_takes_blocks_larger_than_a_slab) {
  Memory memory;
  const Block huge = memory.take(int64_t{5} << 30);  // address space: nothing is touched
  CHECK(memory.arena->report().reserved >= int64_t{5} << 30);
  memory.give(huge);
  CHECK_EQUAL(memory.take(int64_t{5} << 30).data, huge.data);
}

// Sizes over six orders of magnitude, a fixed seed.
struct Program {
  std::mt19937 random{12345};
  std::vector<Block> live;

  bool next_is_take() { return live.empty() || (live.size() < 200 && random() % 9 < 5); }
  int64_t next_size() { return static_cast<int64_t>(std::exp2(random() % 2000 / 100.0)); }
  Kind next_kind() { return static_cast<Kind>(random() % kKinds); }
  Block next_victim() {
    const size_t index = random() % live.size();
    const Block victim = live[index];
    live[index] = live.back();
    live.pop_back();
    return victim;
  }
};

TEST(arena_agrees_with_a_model) {
  for (int64_t guard : {0, 128}) {
    Memory memory(int64_t{1} << 40, guard);
    Program program;
    std::map<char*, int64_t> taken;  // begin -> bytes, guards with them
    char* base = nullptr;
    int64_t current = 0, peak = 0;
    for (int step = 0; step < 20000; step++) {
      if (program.next_is_take()) {
        const int64_t bytes = program.next_size();
        const Block block = memory.take(bytes, program.next_kind());
        program.live.push_back(block);
        char* begin = static_cast<char*>(block.data) - guard;
        if (!base) base = begin;
        // The smallest hole of the slab that is large enough, the first of equal ones.
        char *best = nullptr, *hole = base;
        int64_t best_bytes = 0;
        const auto consider = [&](char* end) {
          const int64_t size = end - hole;
          if (size >= block.reserved && (!best || size < best_bytes)) best = hole, best_bytes = size;
        };
        for (const auto& [at, length] : taken) {
          consider(at);
          hole = at + length;
        }
        consider(base + memory.arena->report().reserved);
        CHECK(begin == best);
        const auto [place, is_new] = taken.emplace(begin, block.reserved);
        CHECK(is_new && (place == taken.begin() || std::prev(place)->first + std::prev(place)->second <= begin));
        CHECK(std::next(place) == taken.end() || begin + block.reserved <= std::next(place)->first);
        CHECK(block.bytes == bytes && block.reserved >= bytes + 2 * guard);
        peak = std::max(peak, current += bytes);
      } else {
        const Block block = program.next_victim();
        memory.give(block);
        taken.erase(static_cast<char*>(block.data) - guard);
        current -= block.bytes;
      }
      const MemoryReport& report = memory.arena->report();
      int64_t sum = 0;
      for (int64_t bytes : report.current) sum += bytes;
      CHECK(report.current_total == current && sum == current && report.peak_total == peak);
      CHECK(report.blocks == static_cast<int64_t>(taken.size()));
    }
    for (const Block& block : program.live) memory.give(block);
    CHECK_EQUAL(memory.arena->report().current_total, 0);
    CHECK_EQUAL(memory.take(memory.arena->report().reserved - 2 * memory.arena->guard()).data, base + guard);  // one hole again
  }
}

TEST(arena_is_deterministic) {
  std::vector<std::vector<int64_t>> histories;
  for (int run = 0; run < 2; run++) {
    Memory memory, other;  // another arena in the same process changes nothing
    Program program;
    std::vector<int64_t> history;
    Block first;
    for (int step = 0; step < 3000; step++) {
      if (program.next_is_take()) {
        program.live.push_back(memory.take(program.next_size(), program.next_kind()));
        if (!first.data) first = program.live.back();
        history.push_back(distance(first, program.live.back()));
      } else {
        memory.give(program.next_victim());
      }
      if (run) other.take(1 + step);
      history.push_back(memory.arena->report().peak_total);
    }
    histories.push_back(history);
  }
  CHECK(histories[0] == histories[1]);
}

}  // namespace
}  // namespace sidetune
