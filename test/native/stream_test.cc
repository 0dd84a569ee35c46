#include <atomic>
#include <future>
#include <new>
#include <utility>

#include "native/stream.h"
#include "testing.h"

namespace sidetune {
namespace {

Status failure(const char* text) {
  Status status;
  status.ok = false;
  snprintf(status.text, sizeof status.text, "%s", text);
  return status;
}

// Waits for the stream; the message of the error it hands out, or "".
std::string wait(Stream& stream, std::function<void()> work = nullptr) {
  std::promise<std::string> reached;
  stream.enqueue_wait(std::move(work), [&](const Error* error) { reached.set_value(error ? error->message : ""); });
  return reached.get_future().get();
}

TEST(stream_runs_in_order) {
  Stream stream;
  std::vector<int> order;
  for (int i = 0; i < 1000; i++) {
    if (i % 3 == 0)
      stream.enqueue_always([&order, i] { order.push_back(i); });
    else
      stream.enqueue("Count", [&order, i] { return order.push_back(i), Status(); });
  }
  CHECK_EQUAL(wait(stream), "");
  CHECK_EQUAL(order.size(), 1000u);
  for (size_t i = 0; i < order.size(); i++) CHECK(order[i] == static_cast<int>(i));
  CHECK_EQUAL(stream.calls(), 666u);
}

TEST(stream_keeps_the_first_error_and_skips_what_follows) {
  Stream stream;
  int ran = 0, housekeeping = 0;
  const auto count = [&] { return ran++, Status(); };
  stream.enqueue("LayerNormForward", count);
  stream.enqueue("LayerNormBackward", [] { return failure("the first"); });
  stream.enqueue("LayerNormForward", count);
  stream.enqueue("LayerNormForward", [] { return failure("the second"); });
  stream.enqueue_always([&] { housekeeping++; });
  bool worked = false;
  CHECK_EQUAL(wait(stream, [&] { worked = true; }), "layerNormBackward (call 2) failed: the first; later calls were skipped");
  CHECK(!worked);
  CHECK_EQUAL(ran, 1);
  CHECK_EQUAL(housekeeping, 1);
  // Handed out once; afterwards the stream works again.
  CHECK_EQUAL(wait(stream), "");
  stream.enqueue("LayerNormForward", count);
  CHECK_EQUAL(wait(stream, [&] { worked = true; }), "");
  CHECK(worked);
  CHECK_EQUAL(ran, 2);
}

TEST(stream_survives_exceptions) {
  Stream stream;
  stream.enqueue("Kernel", []() -> Status { throw Error(Code::shape, "thrown"); });
  CHECK_EQUAL(wait(stream), "kernel (call 1) failed: thrown; later calls were skipped");
  stream.enqueue("Kernel", []() -> Status { throw std::bad_alloc(); });
  CHECK_EQUAL(wait(stream), "kernel (call 2) failed: out of memory; later calls were skipped");
  stream.enqueue_always([] { throw std::runtime_error("housekeeping"); });
  CHECK_EQUAL(wait(stream), "housekeeping");
  CHECK_EQUAL(wait(stream, [] { throw Error(Code::late, "while waiting"); }), "while waiting");
  CHECK_EQUAL(wait(stream), "");
}

TEST(stream_hears_late_of_calls_that_were_started) {
  Status late;  // what the device has found
  int asked = 0;
  Stream stream([&] { return asked++, std::exchange(late, Status()); });
  const auto start = [&](const char* kernel, uint64_t ticket) {
    stream.enqueue(kernel, [ticket] {
      Status status;
      status.ticket = ticket;
      return status;
    });
  };
  const auto find = [&](uint64_t ticket) {
    stream.enqueue_always([&late, ticket] {
      late = failure("found");
      late.ticket = ticket;
    });
  };
  int ran = 0;
  bool worked = false;
  const auto count = [&] { return ran++, Status(); };
  start("LayerNormForward", 7);
  start("LayerNormBackward", 8);
  stream.enqueue("Kernel", count);
  find(8);
  CHECK_EQUAL(wait(stream, [&] { worked = true; }), "layerNormBackward (call 2) failed: found; later calls were skipped");
  CHECK(!worked);
  CHECK_EQUAL(ran, 1);
  CHECK_EQUAL(wait(stream, [&] { worked = true; }), "");
  CHECK(worked);
  // It comes before the error of a later call, which is forgotten, too.
  start("LayerNormForward", 9);
  stream.enqueue("Kernel", [] { return failure("the second"); });
  find(9);
  CHECK_EQUAL(wait(stream), "layerNormForward (call 4) failed: found; later calls were skipped");
  CHECK_EQUAL(wait(stream), "");
  // The device's own failure, of no call: the call that met it has the better words.
  find(0);
  CHECK_EQUAL(wait(stream), "found");
  stream.enqueue("Kernel", [] { return failure("lost"); });
  find(0);
  CHECK_EQUAL(wait(stream), "kernel (call 6) failed: lost; later calls were skipped");
  CHECK_EQUAL(asked, 6);
}

TEST(stream_hands_each_error_to_one_waiter) {
  Stream stream;
  std::promise<void> go;
  stream.enqueue_always([future = go.get_future().share()] { future.wait(); });
  stream.enqueue("Kernel", [] { return failure("once"); });
  std::vector<std::string> heard;
  for (int i = 0; i < 3; i++)
    stream.enqueue_wait(nullptr, [&](const Error* error) { heard.push_back(error ? error->message : ""); });
  go.set_value();
  wait(stream);
  CHECK_EQUAL(heard.size(), 3u);
  CHECK(!heard[0].empty() && heard[1].empty() && heard[2].empty());
}

TEST(stream_ends_with_work_queued) {
  std::promise<void> started, go;
  std::atomic<int> finished{0}, ran{0};
  std::vector<std::string> heard;
  std::thread opener;
  {
    Stream stream;
    stream.enqueue("Slow", [&] {
      started.set_value();
      go.get_future().wait();
      return finished++, Status();
    });
    for (int i = 0; i < 100; i++) stream.enqueue("Kernel", [&] { return ran++, Status(); });
    stream.enqueue_always([&] { ran++; });
    for (int i = 0; i < 2; i++) {
      stream.enqueue_wait([&] { ran++; },
                          [&](const Error* error) {
                            CHECK(error && error->code == Code::device);
                            heard.push_back(error ? error->message : "");
                          });
    }
    started.get_future().wait();
    opener = std::thread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      go.set_value();
    });
  }
  opener.join();
  CHECK_EQUAL(finished, 1);  // the call that ran was finished
  CHECK_EQUAL(ran, 0);       // the rest was dropped
  CHECK_EQUAL(heard.size(), 2u);
  for (const std::string& message : heard) CHECK_EQUAL(message, "the device was closed before the stream got here");
}

TEST(stream_starts_and_ends_many_times) {
  for (int i = 0; i < 200; i++) {
    Stream stream;
    if (i % 2) stream.enqueue("Kernel", [] { return Status(); });
  }
}

}  // namespace
}  // namespace sidetune
