// Calls that were recorded once and run again as one task of the stream, without the host's part of each call; on CUDA as one
// graph.
//
// A replay makes the same calls on the same addresses. What those are made of:
//   - tensors from before the recording: held, so they stay where they are;
//   - tensors made while recording that are alive at its end (results): held, too;
//   - everything else that was taken while recording: temporary. Its memory goes back to the arena, and a replay uses it again,
//   so it
//     must be free then. Replaying therefore costs no memory beyond that of making the calls.
#pragma once

#include <functional>
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

  // Queues all calls. Throws Error(device) when the device is closed or when memory of temporaries is in use by somebody else.
  void run();
  // Lets go of everything; what is queued still runs.
  void dispose();
  bool disposed() const { return !program_; }
  int64_t calls() const;

 private:
  friend class Recorder;
  struct Program;
  explicit Replay(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  std::shared_ptr<Device> device_;
  std::vector<std::shared_ptr<Storage>> held_;
  std::vector<Storage*> changed_;                     // of those held
  std::vector<std::pair<char*, int64_t>> temporary_;  // ranges of addresses
  std::shared_ptr<Program> program_;
};

// Listens to a device while calls are recorded; the device tells it everything.
class Recorder {
 public:
  void call(const char* kernel, std::function<Status()> run) { calls_.push_back({kernel, std::move(run)}); }
  void took(const Block& block, int64_t guard) { taken_.emplace_back(static_cast<char*>(block.data) - guard, block.reserved); }
  void made(const std::shared_ptr<Storage>& storage) { made_.emplace(storage.get(), storage); }
  void used(const std::shared_ptr<Storage>& storage);
  void changed(Storage* storage) { changed_.insert(storage); }
  // A block that the arena would give back to the device: replays still use it.
  void kept(const Block& block) { kept_.push_back(block); }

  std::unique_ptr<Replay> finish(std::shared_ptr<Device> device);

 private:
  std::vector<RecordedCall> calls_;
  std::vector<std::pair<char*, int64_t>> taken_;
  std::map<Storage*, std::weak_ptr<Storage>> made_;
  std::map<Storage*, std::shared_ptr<Storage>> used_;  // from before the recording
  std::set<Storage*> changed_;
  std::vector<Block> kept_;
};

}  // namespace sidetune
