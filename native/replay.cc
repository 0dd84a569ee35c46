#include "replay.h"

#include <algorithm>

#include "check.h"
#include "device.h"
#include "sanitizer.h"

namespace sidetune {
namespace {

using Ranges = std::vector<std::pair<char*, int64_t>>;

// Sorted, without overlaps and without what lies in `without`, which is in order and has no overlaps itself.
Ranges union_without(Ranges ranges, const std::map<char*, int64_t>& without) {
  std::sort(ranges.begin(), ranges.end());
  Ranges joined;
  for (const auto& [data, bytes] : ranges) {
    if (!joined.empty() && data <= joined.back().first + joined.back().second)
      joined.back().second = std::max(joined.back().second, data + bytes - joined.back().first);
    else
      joined.emplace_back(data, bytes);
  }
  Ranges result;
  for (auto [data, bytes] : joined) {
    char* const end = data + bytes;
    for (auto hole = without.begin(); hole != without.end() && hole->first < end; ++hole) {
      if (hole->first + hole->second <= data) continue;
      if (hole->first > data) result.emplace_back(data, hole->first - data);
      data = std::max(data, hole->first + hole->second);
    }
    if (data < end) result.emplace_back(data, end - data);
  }
  return result;
}

}  // namespace

// What the stream's thread works with: it lives until the last queued run is over.
struct Replay::Program {
  Device& device;  // whose stream runs it
  std::vector<RecordedCall> calls;
  Ranges temporary;
  std::vector<Block> kept;
  void* graph = nullptr;

  explicit Program(Device& device) : device(device) {}
  ~Program() {
    if (graph) device.table().free_graph(device.backend(), graph);
    for (const Block& block : kept) device.arena().release(block);
  }

  Status run_calls() {
    for (const RecordedCall& call : calls) {
      Status status = call.run();
      if (status.ok) continue;
      const std::string text = camel_case(call.kernel) + ": " + status.text;
      snprintf(status.text, sizeof status.text, "%s", text.c_str());
      return status;
    }
    return {};
  }

  Status run() {
    for (const auto& [data, bytes] : temporary) unpoison(data, bytes);
    const Status status = launch();
    for (const auto& [data, bytes] : temporary)
      if (device.arena().guard()) poison(data, bytes);
    return status;
  }

  Status launch() {
    const BackendTable& table = device.table();
    if (!table.begin_graph) return run_calls();
    if (!graph) {
      if (const Status status = table.begin_graph(device.backend()); !status.ok) return status;
      const Status status = run_calls();
      const Status ended = table.end_graph(device.backend(), &graph);
      if (!status.ok) return status;
      if (!ended.ok) return ended;
    }
    return table.launch_graph(device.backend(), graph);
  }
};

void Recorder::used(const std::shared_ptr<Storage>& storage) {
  if (!made_.count(storage.get())) used_.emplace(storage.get(), storage);
}

std::unique_ptr<Replay> Recorder::finish(std::shared_ptr<Device> device) {
  std::unique_ptr<Replay> replay(new Replay(device));
  std::map<char*, int64_t> in_use;
  const int64_t guard = device->arena().guard();
  for (const auto& [address, weak] : made_) {
    if (auto storage = weak.lock()) {
      in_use.emplace(static_cast<char*>(storage->block.data) - guard, storage->block.reserved);
      used_.emplace(address, std::move(storage));
    }
  }
  for (const auto& [address, storage] : used_) {
    replay->held_.push_back(storage);
    if (changed_.count(address)) replay->changed_.push_back(address);
  }
  if (device->arena().backing() == Backing::slabs) replay->temporary_ = union_without(std::move(taken_), in_use);
  replay->program_ = std::make_shared<Replay::Program>(*device);
  replay->program_->calls = std::move(calls_);
  replay->program_->temporary = replay->temporary_;
  replay->program_->kept = std::move(kept_);
  return replay;
}

Replay::~Replay() { dispose(); }

int64_t Replay::calls() const { return program_ ? static_cast<int64_t>(program_->calls.size()) : 0; }

void Replay::run() {
  if (!program_) throw Error(Code::disposed, "replay: it was disposed");
  device_->stream();  // throws when it is closed
  for (const auto& [data, bytes] : temporary_) {
    if (device_->arena().is_free(data, bytes)) continue;
    throw Error(Code::device,
                "replay: memory that the recorded calls used for a moment is in use by a tensor made since; dispose what was "
                "made since, or record anew");
  }
  for (Storage* storage : changed_) storage->version = device_->next_version();
  TraceNote note;
  if (device_->trace()) note = {device_->trace()->now(), std::to_string(calls()) + " calls", 0, 0};
  device_->enqueue(
      "replay", [program = program_] { return program->run(); }, std::move(note));
}

void Replay::dispose() {
  if (!program_) return;
  if (!device_->closed()) {
    // Behind every run that is queued.
    device_->stream().enqueue_always([program = std::move(program_)] {});
  }
  program_ = nullptr;
  held_.clear();
  changed_.clear();
  temporary_.clear();
  device_.reset();
}

}  // namespace sidetune
