// Calls that were recorded once and run again as one task of the stream, without the host's part of each call; on CUDA as one
// graph.
//
// A replay makes the same calls on the same addresses, and holds no memory between runs. The addresses are those of:
//   - tensors from before the recording, and those made by it that are still there and no results: they must be there in each
//   run;
//   - inputs, results, and everything that the calls took for a moment: their memory went back to the arena and must be free when
//   a
//     run begins. Inputs are taken again for the caller to fill, results when the calls are queued.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "arena.h"

namespace sidetune {

class Device;
struct Storage;

struct RecordedCall {
  const char* kernel;
  std::function<Status()> run;
};

class Replay {
 public:
  ~Replay();
  Replay(const Replay&) = delete;

  // Null, or why it cannot run now.
  const char* obstacle() const;
  // The inputs' memory, to be filled and given back before run(). Throws Error(device) when there is an obstacle, Error(memory)
  // when the calls would pass the limit.
  std::vector<std::shared_ptr<Storage>> take_inputs();
  // Queues all calls and takes the results.
  std::vector<std::shared_ptr<Storage>> run();
  // Lets go of everything; what is queued still runs.
  void dispose();
  bool disposed() const { return !program_; }
  int64_t calls() const;

 private:
  friend class Recorder;
  struct Program;
  explicit Replay(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  void check() const;
  std::vector<std::shared_ptr<Storage>> lend(const std::vector<Block>& blocks);

  std::shared_ptr<Device> device_;
  std::vector<std::weak_ptr<Storage>> used_;
  std::vector<Storage*> changed_;  // of those used
  std::vector<Block> inputs_, results_;
  std::vector<std::pair<char*, int64_t>> footprint_;  // ranges of addresses that must be free
  MemoryUse use_;
  std::shared_ptr<Program> program_;
  std::vector<std::weak_ptr<Storage>> lent_;  // inputs and results that may still be there
};

// Listens to a device while calls are recorded; the device tells it everything.
class Recorder {
 public:
  Recorder(const Arena& arena, const std::vector<std::shared_ptr<Storage>>& inputs);

  void call(const char* kernel, std::function<Status()> run) { calls_.push_back({kernel, std::move(run)}); }
  void took(const Block& block, const Arena& arena);
  void made(const std::shared_ptr<Storage>& storage) { made_.emplace(storage.get(), storage); }
  void used(const std::shared_ptr<Storage>& storage);
  void changed(Storage* storage) { changed_.insert(storage); }
  // A block that the arena would give back to the device: replays still use it.
  void kept(const Block& block) { kept_.push_back(block); }

  // Throws Error(argument) when an input is still there, or a result was there before.
  std::unique_ptr<Replay> finish(std::shared_ptr<Device> device, const std::vector<std::shared_ptr<Storage>>& results);

 private:
  const MemoryReport beginning_;
  MemoryUse use_;
  std::vector<RecordedCall> calls_;
  std::vector<Block> inputs_;
  std::vector<std::pair<char*, int64_t>> taken_;
  std::map<Storage*, std::weak_ptr<Storage>> made_;  // inputs among them
  std::map<Storage*, std::weak_ptr<Storage>> used_;  // from before the recording
  std::set<Storage*> changed_;
  std::vector<Block> kept_;
};

}  // namespace sidetune
