#include <future>
#include <thread>

#include "native/check.h"
#include "native/device.h"
#include "native/linear.h"
#include "testing.h"

namespace sidetune {
namespace {

std::shared_ptr<Device> open(bool plan = false) {
  DeviceSettings settings;
  settings.plan = plan;
  return Device::open("cpu", settings);
}

// Waits for the stream; the message of the error it hands out, or "".
std::string wait(Device& device) {
  std::promise<std::string> reached;
  device.stream().enqueue_wait(nullptr, [&](const Error* error) { reached.set_value(error ? error->message : ""); });
  return reached.get_future().get();
}

Status sleep() {
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return Status();
}

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.message;
  }
  return "";
}

TEST(trace_has_every_call_in_order) {
  const auto device = open();
  const Storage a(device, 64, Kind::side), b(device, 64, Kind::side);
  device->enqueue("Before", sleep);
  device->start_trace(100);
  device->trace()->set_label("part");
  device->enqueue("Sleep", sleep, {device->trace()->now(), "text", 8, 4});
  device->copy_in(a.block.data, std::string(64, 'x').data(), 64);
  device->trace()->set_label("");
  device->copy(b.block.data, a.block.data, 64);
  device->fill(a.block.data, 0, 64);
  CHECK_EQUAL(wait(*device), "");
  const auto calls = device->stop_trace()->calls();
  CHECK(!device->trace());
  CHECK_EQUAL(calls.size(), 4u);

  const char* const kernels[] = {"Sleep", "write", "copy", "fill"};
  const int64_t bytes[] = {8, 128, 128, 64};
  for (size_t i = 0; i < calls.size(); i++) {
    CHECK_EQUAL(std::string(calls[i].kernel), kernels[i]);
    CHECK_EQUAL(calls[i].call, i + 2);
    CHECK_EQUAL(calls[i].note.bytes, bytes[i]);
    CHECK_EQUAL(calls[i].label, i < 2 ? "part" : "");
    CHECK(calls[i].note.begun > 0 && calls[i].note.begun <= calls[i].queued);
    CHECK(calls[i].note.begun <= calls[i].ran_from && calls[i].ran_from <= calls[i].ran_to);
    if (i > 0) CHECK(calls[i - 1].ran_to <= calls[i].ran_from);
    if (i > 0) CHECK(calls[i - 1].queued <= calls[i].note.begun);
  }
  CHECK(calls[0].ran_to - calls[0].ran_from >= 2000);
  CHECK_EQUAL(calls[0].note.text, "text");
  CHECK_EQUAL(calls[0].note.flops, 4);
}

TEST(trace_that_is_full_counts_the_rest) {
  const auto device = open();
  device->start_trace(2);
  int ran = 0;
  for (int i = 0; i < 5; i++) device->enqueue("Count", [&ran] { return ran++, Status(); });
  CHECK_EQUAL(wait(*device), "");
  const auto trace = device->stop_trace();
  CHECK_EQUAL(ran, 5);
  CHECK_EQUAL(trace->calls().size(), 2u);
  CHECK_EQUAL(trace->dropped(), 3);
}

TEST(trace_tells_calls_that_were_skipped) {
  const auto device = open();
  device->start_trace(100);
  device->enqueue("Fail", [] {
    Status status;
    status.ok = false;
    return status;
  });
  device->enqueue("Skipped", sleep);
  CHECK(wait(*device) != "");
  device->enqueue("Again", sleep);
  CHECK_EQUAL(wait(*device), "");
  const auto calls = device->stop_trace()->calls();
  CHECK_EQUAL(calls.size(), 3u);
  CHECK(calls[0].ran_from >= 0 && calls[1].ran_from < 0 && calls[2].ran_from >= 0);
}

// What the stream has still to run outlives the trace and, when the device closes, never runs.
TEST(trace_ends_while_the_stream_is_behind) {
  const auto device = open();
  device->start_trace(100);
  for (int i = 0; i < 20; i++) device->enqueue("Sleep", sleep);
  const auto stopped = device->stop_trace();
  CHECK_EQUAL(stopped->calls().size(), 20u);
  device->start_trace(100);
  for (int i = 0; i < 20; i++) device->enqueue("Sleep", sleep);
  device->close();
  CHECK_EQUAL(device->stop_trace()->calls().size(), 20u);
}

TEST(trace_refuses) {
  const auto device = open();
  CHECK_EQUAL(message_of([&] { device->stop_trace(); }), "no trace is being recorded; startTrace() begins one");
  device->start_trace(1);
  CHECK_EQUAL(message_of([&] { device->start_trace(1); }), "a trace is being recorded already; stopTrace() ends it");
  CHECK_EQUAL(message_of([&] { open(true)->start_trace(1); }), "a planning device computes nothing: there is nothing to trace");
  device->close();
  device->stop_trace();
  CHECK_EQUAL(message_of([&] { device->start_trace(1); }), "the device is closed");
}

TEST(trace_is_off_by_default) {
  const auto device = open();
  CHECK(!device->trace());
  CHECK_EQUAL(device->note(64).bytes, 0);
}

TEST(call_in_words) {
  LinearForward arguments;
  const auto tensor = [](std::initializer_list<int64_t> shape, Layout layout = Layout::plain) {
    static char bytes;
    Tensor t;
    t.data = &bytes, t.dtype = DType::bf16, t.layout = layout;
    for (int64_t length : shape) t.shape[t.rank++] = length;
    return t;
  };
  arguments.x = tensor({16, 197, 768}), arguments.weight = tensor({3072, 768}, Layout::packed);
  arguments.activation = Activation::gelu;
  CHECK_EQUAL(call_text(fields_of(arguments)), "x bf16[16,197,768], weight bf16[3072,768] packed, activation gelu");
}

}  // namespace
}  // namespace sidetune
