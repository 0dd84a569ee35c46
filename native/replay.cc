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
  Ranges footprint;
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
    for (const auto& [data, bytes] : footprint) unpoison(data, bytes);
    const Status status = launch();
    for (const auto& [data, bytes] : footprint)
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

Recorder::Recorder(const Arena& arena, const std::vector<std::shared_ptr<Storage>>& inputs) : beginning_(arena.report()) {
  for (const auto& input : inputs) {
    inputs_.push_back(input->block);
    took(input->block, arena);
    made(input);
  }
}

void Recorder::took(const Block& block, const Arena& arena) {
  taken_.emplace_back(static_cast<char*>(block.data) - arena.guard(), block.reserved);
  use_.note(arena.report(), beginning_);
}

void Recorder::used(const std::shared_ptr<Storage>& storage) {
  if (!made_.count(storage.get())) used_.emplace(storage.get(), storage);
}

std::unique_ptr<Replay> Recorder::finish(std::shared_ptr<Device> device, const std::vector<std::shared_ptr<Storage>>& results) {
  Arena& arena = device->arena();
  std::unique_ptr<Replay> replay(new Replay(device));
  for (const auto& result : results) {
    if (made_.erase(result.get()) == 0)
      throw Error(Code::argument, "record: 'body' returned a tensor that was there before; return what it made");
    replay->results_.push_back(result->block);
  }
  std::map<char*, int64_t> in_use;
  for (const auto& [address, weak] : made_) {
    const auto storage = weak.lock();
    if (!storage) continue;
    for (const Block& input : inputs_) {
      if (input.data == storage->block.data)
        throw Error(Code::argument, "record: an input has other handles, or 'body' kept one; a run gives its memory back");
    }
    in_use.emplace(static_cast<char*>(storage->block.data) - arena.guard(), storage->block.reserved);
    used_.emplace(address, weak);
  }
  for (const auto& [address, weak] : used_) {
    replay->used_.push_back(weak);
    if (changed_.count(address)) replay->changed_.push_back(address);
  }
  replay->inputs_ = std::move(inputs_);
  replay->use_ = use_;
  replay->footprint_ = union_without(std::move(taken_), in_use);
  replay->program_ = std::make_shared<Replay::Program>(*device);
  replay->program_->calls = std::move(calls_);
  replay->program_->footprint = replay->footprint_;
  replay->program_->kept = std::move(kept_);
  for (const auto& result : results) {
    result->lender = replay->program_;
    replay->lent_.push_back(result);
    if (arena.backing() == Backing::separate) replay->program_->kept.push_back(result->block);
  }
  return replay;
}

Replay::~Replay() { dispose(); }

int64_t Replay::calls() const { return program_ ? static_cast<int64_t>(program_->calls.size()) : 0; }

const char* Replay::obstacle() const {
  if (!program_) return "it was disposed";
  if (device_->closed()) return "the device is closed";
  for (const auto& used : used_)
    if (used.expired()) return "a tensor that the recorded calls use was disposed";
  for (const auto& lent : lent_)
    if (!lent.expired()) return "results or inputs of an earlier run are still in use";
  for (const auto& [data, bytes] : footprint_)
    if (!device_->arena().is_free(data, bytes)) return "memory that the recorded calls use is in use by a tensor made since";
  return nullptr;
}

void Replay::check() const {
  if (const char* problem = obstacle()) {
    const std::string remedy = program_ && !device_->closed() ? "; dispose what was made since, or record anew" : "";
    throw Error(program_ ? Code::device : Code::disposed, std::string("replay: ") + problem + remedy);
  }
}

std::vector<std::shared_ptr<Storage>> Replay::lend(const std::vector<Block>& blocks) {
  std::vector<std::shared_ptr<Storage>> storages;
  for (const Block& block : blocks) {
    storages.push_back(std::make_shared<Storage>(device_, block, program_));
    lent_.push_back(storages.back());
  }
  return storages;
}

std::vector<std::shared_ptr<Storage>> Replay::take_inputs() {
  check();
  lent_.clear();
  auto inputs = lend(inputs_);
  device_->arena().count_use(use_);
  return inputs;
}

std::vector<std::shared_ptr<Storage>> Replay::run() {
  check();
  lent_.clear();
  for (Storage* storage : changed_) storage->version = device_->next_version();
  TraceNote note;
  if (device_->trace()) note = {device_->trace()->now(), std::to_string(calls()) + " calls", 0, 0};
  device_->enqueue(
      "replay", [program = program_] { return program->run(); }, std::move(note));
  return lend(results_);
}

void Replay::dispose() {
  if (!program_) return;
  if (!device_->closed()) {
    // Behind every run that is queued.
    device_->stream().enqueue_always([program = std::move(program_)] {});
  }
  program_ = nullptr;
  used_.clear();
  changed_.clear();
  lent_.clear();
  device_.reset();
}

}  // namespace sidetune
