#include "device.h"

#include <cstring>
#include <limits>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define SIDETUNE_POISON(data, bytes) __asan_poison_memory_region(data, bytes)
#define SIDETUNE_UNPOISON(data, bytes) __asan_unpoison_memory_region(data, bytes)
#endif

namespace sidetune {
namespace {

constexpr uint8_t kGuardByte = 0xA5;
constexpr int64_t kGuardBytes = 128;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAlwaysGuard = true;
#else
constexpr bool kAlwaysGuard = false;
#endif

}  // namespace

Storage::Storage(std::shared_ptr<Device> owner, int64_t bytes, Kind kind) : device(std::move(owner)) {
  block = device->take(bytes, kind);
  version = device->next_version();
}

Storage::~Storage() { device->give(block); }

std::shared_ptr<Device> Device::open(const std::string& name, const DeviceSettings& settings) {
  if (name != "cpu") throw Error(Code::no_backend, "no device '" + name + "' here; Device.open('cpu') works");
  const BackendTable& table = cpu_backend();
  BackendDevice* backend = nullptr;
  const Status status = table.open(settings.backend, &backend);
  if (!status.ok) throw Error(status.code, status.text);
  return std::shared_ptr<Device>(new Device(name, table, backend, settings));
}

Device::Device(std::string name, const BackendTable& table, BackendDevice* backend, const DeviceSettings& settings)
    : name_(std::move(name)), table_(table), backend_(backend), settings_(settings) {
  const int64_t limit = settings.memory_limit > 0 ? settings.memory_limit
                        : settings.plan           ? std::numeric_limits<int64_t>::max() / 4
                                                  : table.memory_limit(*backend);
  arena_ = std::make_unique<Arena>(table, *backend, limit, settings.guards || kAlwaysGuard ? kGuardBytes : 0);
  stream_ = std::make_unique<Stream>();
}

Device::~Device() {
  close();
#if defined(__SANITIZE_ADDRESS__)
  for (const auto& [data, block] : guarded_) SIDETUNE_UNPOISON(data, block.bytes);
#endif
  arena_.reset();
  table_.close(backend_);
}

void Device::close() {
  if (closed_) return;
  closed_ = true;
  stream_.reset();
}

Block Device::take(int64_t bytes, Kind kind) {
  const Block block = arena_->take(bytes, kind);
  const int64_t guard = arena_->guard();
  if (guard && !settings_.plan) {
    // The stream fills the guards when it gets here: until then the bytes may belong to an earlier block.
    char* data = static_cast<char*>(block.data);
    const int64_t after = block.reserved - guard - block.bytes;
    stream_->enqueue_always([this, data, bytes, guard, after] {
#if defined(__SANITIZE_ADDRESS__)
      SIDETUNE_UNPOISON(data - guard, guard + bytes + after);
#endif
      table_.fill(*backend_, data - guard, kGuardByte, guard);
      table_.fill(*backend_, data + bytes, kGuardByte, after);
#if defined(__SANITIZE_ADDRESS__)
      SIDETUNE_POISON(data - guard, guard);
      SIDETUNE_POISON(data + bytes, after);
#endif
    });
    guarded_.emplace(block.data, block);
  }
  return block;
}

void Device::give(const Block& block) {
  if (arena_->guard()) {
    guarded_.erase(block.data);
#if defined(__SANITIZE_ADDRESS__)
    if (!closed_ && !settings_.plan) {
      stream_->enqueue_always([data = block.data, bytes = block.bytes] { SIDETUNE_POISON(data, bytes); });
    }
#endif
  }
  arena_->give(block);
}

void Device::enqueue(const char* kernel, std::function<Status()> run) {
  if (!settings_.plan) stream_->enqueue(kernel, std::move(run));
}

void Device::copy_in(void* to, std::shared_ptr<const std::string> bytes) {
  enqueue("write", [this, to, bytes] { return table_.copy_in(*backend_, to, bytes->data(), static_cast<int64_t>(bytes->size())); });
}

void Device::copy(void* to, const void* from, int64_t bytes) {
  enqueue("copy", [this, to, from, bytes] { return table_.copy(*backend_, to, from, bytes); });
}

void Device::fill(void* data, uint8_t byte, int64_t bytes) {
  enqueue("fill", [this, data, byte, bytes] { return table_.fill(*backend_, data, byte, bytes); });
}

void Device::check_guards(std::function<void(std::string)> done) {
  const int64_t guard = arena_->guard();
  stream_->enqueue_always([this, guard, blocks = guarded_, done = std::move(done)] {
    std::string problem;
    std::string bytes;
    for (const auto& [address, block] : blocks) {
      char* data = static_cast<char*>(address);
      const int64_t after = block.reserved - guard - block.bytes;
#if defined(__SANITIZE_ADDRESS__)
      SIDETUNE_UNPOISON(data - guard, guard);
      SIDETUNE_UNPOISON(data + block.bytes, after);
#endif
      for (const auto& [from, count, where] : {std::tuple(data - guard, guard, "before"), std::tuple(data + block.bytes, after, "after")}) {
        bytes.resize(count);
        table_.copy_out(*backend_, bytes.data(), from, count);
        if (bytes.find_first_not_of(static_cast<char>(kGuardByte)) != std::string::npos && problem.empty()) {
          problem = std::string("bytes ") + where + " a block of " + std::to_string(block.bytes) + " bytes (" + name_of(block.kind) + ") were overwritten";
        }
      }
#if defined(__SANITIZE_ADDRESS__)
      SIDETUNE_POISON(data - guard, guard);
      SIDETUNE_POISON(data + block.bytes, after);
#endif
    }
    done(problem);
  });
}

}  // namespace sidetune
