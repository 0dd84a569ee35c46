// An open device: a backend's table and state, an arena, a stream, and the storages that live in it. Used from one JavaScript
// thread.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "arena.h"
#include "backend.h"
#include "replay.h"
#include "stream.h"
#include "trace.h"

namespace sidetune {

struct DeviceSettings {
  DeviceOptions backend;
  bool plan = false;         // count memory and check calls, compute nothing
  int64_t memory_limit = 0;  // 0: what the backend says
  bool guards = false;       // tests: guard bytes around every block, verified by check_guards()
};

class Device;

// Bytes in a device's memory, shared by every handle that looks at them.
struct Storage {
  std::shared_ptr<Device> device;
  Block block;
  uint64_t version = 0;          // a number of its own for each content that in-place calls have given the bytes
  int handles = 0;               // of JavaScript: while there are any, V8 is told of the bytes
  std::shared_ptr<void> lender;  // of a replay's blocks: what they belong to, which may go on the stream's thread alone

  Storage(std::shared_ptr<Device> device, int64_t bytes, Kind kind);
  // A replay's, at its own address.
  Storage(std::shared_ptr<Device> device, const Block& block, std::shared_ptr<void> lender);
  ~Storage();
  Storage(const Storage&) = delete;
};

class Device : public std::enable_shared_from_this<Device> {
 public:
  // "cpu", "cuda", "cuda:1", or "cuda-emulated" where the tests have built it. Throws Error(no_backend) when there is no such
  // device, Error(argument) on bad settings.
  static std::shared_ptr<Device> open(const std::string& name, const DeviceSettings& settings);
  ~Device();

  const std::string& name() const { return name_; }
  const BackendTable& table() const { return table_; }
  BackendDevice& backend() { return *backend_; }
  const DeviceSettings& settings() const { return settings_; }
  // Throws Error(device) when the device is closed.
  Stream& stream();
  Arena& arena() { return *arena_; }
  bool closed() const { return closed_; }
  // Stops the stream: the call that runs is finished, the rest is dropped. Tensors that are left can only be disposed.
  void close();

  Block take(int64_t bytes, Kind kind);
  void take_again(const Block& block);
  void give(const Block& block, std::shared_ptr<void> lender = nullptr);
  uint64_t next_version() { return ++versions_; }

  // Queues work for the backend; a planning device queues nothing.
  void enqueue(const char* kernel, std::function<Status()> run, TraceNote note = {});
  void copy_in(void* to, const char* from, int64_t bytes);  // the bytes of now
  void copy(void* to, const void* from, int64_t bytes);
  void fill(void* data, uint8_t byte, int64_t bytes);
  // Calls from now on are made and recorded; `inputs` hold other numbers in each run. Throws Error(device) when that is going on
  // already.
  void start_recording(const std::vector<std::shared_ptr<Storage>>& inputs);
  // `results`, made by the recorded calls, are made anew by each run.
  std::unique_ptr<Replay> stop_recording(const std::vector<std::shared_ptr<Storage>>& results);
  // Ends it without a replay, after a failure.
  void drop_recording() { recorder_.reset(); }
  // Null when nothing is recorded.
  Recorder* recorder() { return recorder_.get(); }

  // When the stream gets here, `done` hears on its thread where guard bytes around a block, in use or given back since the last
  // time, were overwritten; an empty text: nowhere.
  void check_guards(std::function<void(std::string problem)> done);

  // Records calls from now on; no more than `limit`. Throws Error(device) on a planning device, and while one is recorded.
  void start_trace(int64_t limit);
  // The trace that is recorded, null when there is none.
  Trace* trace() { return trace_.get(); }
  // Of a call that moves bytes and does nothing else, which begins now; empty when nothing is recorded.
  TraceNote note(int64_t bytes) const;
  // Ends it; calls that the stream has still to run get no time any more. Throws Error(device) when there is none.
  std::shared_ptr<Trace> stop_trace();

 private:
  struct Guards {
    char* before;
    int64_t before_bytes;
    char* after;
    int64_t after_bytes;
  };

  Device(std::string name, const BackendTable& table, BackendDevice* backend, const DeviceSettings& settings);
  Guards guards_of(const Block& block) const;
  void guard(const Block& block);
  void inspect(const Block& block);

  const std::string name_;
  const BackendTable& table_;
  BackendDevice* backend_;
  const DeviceSettings settings_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Stream> stream_;
  std::shared_ptr<Trace> trace_;
  std::unique_ptr<Recorder> recorder_;
  std::map<void*, Block> guarded_;  // blocks in use, when guards are on
  std::string overrun_;             // what inspect() found first; the stream thread's own
  uint64_t versions_ = 0;
  bool closed_ = false;
};

}  // namespace sidetune
