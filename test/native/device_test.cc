#include <functional>
#include <future>

#include "native/device.h"
#include "native/sanitizer.h"
#include "testing.h"

namespace sidetune {
namespace {

std::shared_ptr<Device> open(bool guards, bool plan = false) {
  DeviceSettings settings;
  settings.guards = guards;
  settings.plan = plan;
  return Device::open("cpu", settings);
}

std::string check_guards(Device& device) {
  std::promise<std::string> found;
  device.check_guards([&](std::string text) { found.set_value(std::move(text)); });
  return found.get_future().get();
}

// A kernel that writes one byte where it may not. AddressSanitizer, which would stop it, is told to look away.
void overwrite(Device& device, void* data, int64_t offset) {
  device.enqueue("Overrun", [target = static_cast<char*>(data) + offset] {
    unpoison(target, 1);
    *target = 0;
    return Status();
  });
}

TEST(device_finds_overruns) {
  const auto device = open(true);
  const Block a = device->take(100, Kind::activations), b = device->take(64, Kind::gradients);
  device->fill(a.data, 1, a.bytes);
  device->fill(b.data, 1, b.bytes);
  CHECK_EQUAL(check_guards(*device), "");
  overwrite(*device, a.data, -1);
  CHECK_EQUAL(check_guards(*device), "bytes before a block of 100 bytes (activations) were overwritten");
}

TEST(device_finds_overruns_behind_the_last_byte) {
  const auto device = open(true);
  const Block block = device->take(100, Kind::gradients);
  overwrite(*device, block.data, 100);
  CHECK_EQUAL(check_guards(*device), "bytes after a block of 100 bytes (gradients) were overwritten");
}

TEST(device_finds_overruns_of_scratch_that_was_given_back) {
  const auto device = open(true);
  const Block scratch = device->take(256, Kind::workspace);
  overwrite(*device, scratch.data, 256 + 127);
  device->give(scratch);
  CHECK_EQUAL(check_guards(*device), "bytes after a block of 256 bytes (workspace) were overwritten");
  CHECK_EQUAL(check_guards(*device), "");  // said once
}

TEST(device_guards_follow_reused_memory) {
  const auto device = open(true);
  for (int64_t bytes : {1000, 10, 500, 64, 63, 65, 1}) {
    const Block block = device->take(bytes, Kind::activations), other = device->take(bytes / 2, Kind::side);
    device->fill(block.data, 7, block.bytes);
    device->give(block);
    device->fill(other.data, 7, other.bytes);
    device->give(other);
  }
  CHECK_EQUAL(check_guards(*device), "");
}

TEST(device_closed) {
  const auto device = open(false);
  const auto storage = std::make_shared<Storage>(device, 64, Kind::side);
  device->close();
  device->close();
  CHECK(device->closed());
  const auto code_of = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.code;
    }
    return Code::argument;
  };
  CHECK(code_of([&] { device->stream(); }) == Code::device);
  CHECK(code_of([&] { device->take(64, Kind::side); }) == Code::device);
  CHECK(code_of([&] { device->enqueue("Kernel", [] { return Status(); }); }) == Code::device);
  CHECK(code_of([&] { device->copy_in(storage->block.data, "x", 1); }) == Code::device);
  CHECK(code_of([&] { device->check_guards([](std::string) {}); }) == Code::device);
  CHECK_EQUAL(device->arena().report().blocks, 1);  // what is left can be given back
}

TEST(device_plans_without_touching_memory) {
  const auto device = open(true, true);
  const Block huge = device->take(int64_t{1} << 44, Kind::weights);
  device->fill(huge.data, 1, huge.bytes);
  device->copy(huge.data, huge.data, huge.bytes);
  device->copy_in(huge.data, "x", 1);
  CHECK_EQUAL(check_guards(*device), "");
  CHECK_EQUAL(device->arena().report().peak_total, int64_t{1} << 44);
  device->give(huge);
}

TEST(device_refuses_settings) {
  const auto message_of = [](const std::string& name, int threads) {
    DeviceSettings settings;
    settings.backend.threads = threads;
    try {
      Device::open(name, settings);
    } catch (const Error& error) {
      return error.message;
    }
    return std::string();
  };
  CHECK_EQUAL(message_of("gpu", 0), "no device 'gpu'; devices are 'cpu', 'cuda', 'cuda:0', 'cuda:1', …");
  CHECK(message_of("cpu", 100000).find("Device.open: 'threads' is 100000, expected a whole number from 1 to") !=
        std::string::npos);
  CHECK(message_of("cpu", -1).find("'threads' is -1") != std::string::npos);
  CHECK_EQUAL(message_of("cpu", 1), "");
}

TEST(device_versions_are_unique) {
  const auto device = open(false);
  const Storage a(device, 8, Kind::side), b(device, 8, Kind::side);
  CHECK(a.version != b.version);
}

}  // namespace
}  // namespace sidetune
