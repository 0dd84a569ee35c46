#include "device.h"

#include <charconv>
#include <limits>
#include <utility>

#include "sanitizer.h"

namespace sidetune {
namespace {

constexpr uint8_t kGuardByte = 0xA5;
constexpr int64_t kGuardBytes = 128;
constexpr const char* kEmulated = "cuda-emulated";

// The backend of a device's name, and which of its devices.
const BackendTable& backend_of(const std::string& name, int* index) {
  if (name == "cpu") return cpu_backend();
  if (name == kEmulated) return library_backend(name);
  if (name == "cuda") return library_backend(name);
  if (name.rfind("cuda:", 0) == 0) {
    const char *begin = name.data() + 5, *end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(begin, end, *index);
    if (error == std::errc() && rest == end && *index >= 0) return library_backend("cuda");
  }
  throw Error(Code::no_backend, "no device '" + name + "'; devices are 'cpu', 'cuda', 'cuda:0', 'cuda:1', …");
}

}  // namespace

Storage::Storage(std::shared_ptr<Device> owner, int64_t bytes, Kind kind) : device(std::move(owner)) {
  block = device->take(bytes, kind);
  version = device->next_version();
}

Storage::Storage(std::shared_ptr<Device> owner, const Block& block, std::shared_ptr<void> lender)
    : device(std::move(owner)), block(block), lender(std::move(lender)) {
  device->take_again(block);
  version = device->next_version();
}

Storage::~Storage() { device->give(block, std::move(lender)); }

std::shared_ptr<Device> Device::open(const std::string& name, const DeviceSettings& settings) {
  DeviceSettings chosen = settings;
  const BackendTable& table = backend_of(name, &chosen.backend.index);
  BackendDevice* backend = nullptr;
  const Status status = table.open(chosen.backend, &backend);
  if (!status.ok) {
    throw Error(status.code, "Device.open", status.argument, status.got, status.expected,
                std::string("Device.open: ") + status.text);
  }
  return std::shared_ptr<Device>(new Device(name, table, backend, chosen));
}

Device::Device(std::string name, const BackendTable& table, BackendDevice* backend, const DeviceSettings& settings)
    : name_(std::move(name)), table_(table), backend_(backend), settings_(settings) {
  const int64_t limit = settings.memory_limit > 0 ? settings.memory_limit
                        : settings.plan           ? std::numeric_limits<int64_t>::max() / 4
                                                  : table.memory_limit(*backend);
  const bool guards = (settings.guards || kSanitized) && !settings.plan;
  // The emulator knows where each block ends.
  const Backing backing = settings.plan ? Backing::none : name_ == kEmulated ? Backing::separate : Backing::slabs;
  arena_ = std::make_unique<Arena>(table, *backend, limit, guards ? kGuardBytes : 0, backing);
  stream_ = std::make_unique<Stream>([this] { return table_.settle(*backend_); });
}

Device::~Device() {
  close();
  arena_.reset();
  table_.close(backend_);
}

Stream& Device::stream() {
  if (closed_) throw Error(Code::device, "the device is closed");
  return *stream_;
}

void Device::close() {
  if (closed_) return;
  closed_ = true;
  stream_.reset();
  if (table_.stopped) table_.stopped(*backend_);
}

Block Device::take(int64_t bytes, Kind kind) {
  stream();
  const Block block = arena_->take(bytes, kind);
  if (recorder_) recorder_->took(block, *arena_);
  guard(block);
  return block;
}

void Device::take_again(const Block& block) {
  arena_->take_again(block);
  guard(block);
}

void Device::guard(const Block& block) {
  if (arena_->guard() == 0) return;
  // The stream fills the guards when it gets here: until then the bytes may belong to an earlier block.
  stream().enqueue_always([this, block] {
    const Guards guards = guards_of(block);
    unpoison(guards.before, guards.before_bytes + block.bytes + guards.after_bytes);
    table_.fill(*backend_, guards.before, kGuardByte, guards.before_bytes);
    table_.fill(*backend_, guards.after, kGuardByte, guards.after_bytes);
    poison(guards.before, guards.before_bytes);
    poison(guards.after, guards.after_bytes);
  });
  guarded_.emplace(block.data, block);
}

void Device::give(const Block& block, std::shared_ptr<void> lender) {
  // Scratch goes back as soon as its call is queued: its guards must be looked at when the stream gets here, not when somebody
  // asks.
  if (guarded_.erase(block.data) && !closed_) {
    stream_->enqueue_always([this, block] {
      inspect(block);
      poison(block.data, block.bytes);
    });
  }
  arena_->give(block);
  if (lender) {
    if (!closed_) stream_->enqueue_always([lender = std::move(lender)] {});
    return;
  }
  if (arena_->backing() != Backing::separate) return;
  if (closed_)
    arena_->release(block);
  else if (recorder_)
    recorder_->kept(block);
  else
    stream_->enqueue_always([this, block] { arena_->release(block); });
}

Device::Guards Device::guards_of(const Block& block) const {
  char* data = static_cast<char*>(block.data);
  const int64_t guard = arena_->guard();
  return {data - guard, guard, data + block.bytes, block.reserved - guard - block.bytes};
}

void Device::inspect(const Block& block) {
  const Guards guards = guards_of(block);
  const auto overwritten = [&](const char* from, int64_t bytes) {
    std::string copy(static_cast<size_t>(bytes), '\0');
    unpoison(from, bytes);
    table_.copy_out(*backend_, copy.data(), from, bytes);
    poison(from, bytes);
    return copy.find_first_not_of(static_cast<char>(kGuardByte)) != std::string::npos;
  };
  const bool before = overwritten(guards.before, guards.before_bytes), after = overwritten(guards.after, guards.after_bytes);
  if ((before || after) && overrun_.empty()) {
    overrun_ = std::string("bytes ") + (before ? "before" : "after") + " a block of " + std::to_string(block.bytes) + " bytes (" +
               name_of(block.kind) + ") were overwritten";
  }
}

void Device::enqueue(const char* kernel, std::function<Status()> run, TraceNote note) {
  Stream& queue = stream();
  if (recorder_) recorder_->call(kernel, run);
  if (settings_.plan) return;
  if (!trace_) return queue.enqueue(kernel, std::move(run));
  queue.enqueue(kernel, trace_->add(kernel, queue.calls() + 1, std::move(note), std::move(run)));
  trace_->queued();
}

TraceNote Device::note(int64_t bytes) const { return trace_ ? TraceNote{trace_->now(), "", bytes, 0} : TraceNote(); }

void Device::copy_in(void* to, const char* from, int64_t bytes) {
  stream();
  if (recorder_) {
    throw Error(Code::device,
                "write: a replay would write the bytes of now again, so nothing is written while calls are recorded; write "
                "before, into a tensor that the recorded calls read");
  }
  if (settings_.plan) return;
  TraceNote begun = note(2 * bytes);
  const auto copy = std::make_shared<const std::string>(from, static_cast<size_t>(bytes));
  enqueue(
      "write", [this, to, copy] { return table_.copy_in(*backend_, to, copy->data(), static_cast<int64_t>(copy->size())); },
      std::move(begun));
}

void Device::copy(void* to, const void* from, int64_t bytes) {
  enqueue(
      "copy", [this, to, from, bytes] { return table_.copy(*backend_, to, from, bytes); }, note(2 * bytes));
}

void Device::fill(void* data, uint8_t byte, int64_t bytes) {
  enqueue(
      "fill", [this, data, byte, bytes] { return table_.fill(*backend_, data, byte, bytes); }, note(bytes));
}

void Device::check_guards(std::function<void(std::string)> done) {
  stream().enqueue_always([this, blocks = guarded_, done = std::move(done)] {
    for (const auto& [data, block] : blocks) inspect(block);
    done(std::exchange(overrun_, ""));
  });
}

void Device::start_recording(const std::vector<std::shared_ptr<Storage>>& inputs) {
  stream();
  if (recorder_) throw Error(Code::device, "record: calls are being recorded already");
  recorder_ = std::make_unique<Recorder>(*arena_, inputs);
}

std::unique_ptr<Replay> Device::stop_recording(const std::vector<std::shared_ptr<Storage>>& results) {
  if (!recorder_) throw Error(Code::device, "record: no calls are being recorded");
  return std::exchange(recorder_, nullptr)->finish(shared_from_this(), results);
}

void Device::start_trace(int64_t limit) {
  stream();
  if (settings_.plan) throw Error(Code::device, "a planning device computes nothing: there is nothing to trace");
  if (trace_) throw Error(Code::device, "a trace is being recorded already; stopTrace() ends it");
  trace_ = std::make_shared<Trace>(limit);
}

std::shared_ptr<Trace> Device::stop_trace() {
  if (!trace_) throw Error(Code::device, "no trace is being recorded; startTrace() begins one");
  return std::exchange(trace_, nullptr);
}

}  // namespace sidetune
