#include "native/cpu/cores.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "testing.h"

namespace sidetune::cpu {
namespace {

// Longer than a device that pauses counts as one that computes.
void wait_for_idle() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

TEST(cores_are_at_least_one) {
  CHECK(available_cores() >= 1);
  CHECK(&Cores::of_process() == &Cores::of_process());
}

TEST(cores_are_all_of_one_device_alone) {
  Cores cores(2);
  CoreShare alone(cores, 8), idle(cores, 2);
  for (int kernel = 0; kernel < 3; kernel++) {
    CHECK_EQUAL(alone.begin(), 8);  // what was asked for, more than there are too
    alone.end();
  }
}

TEST(cores_are_dealt_out) {
  const auto dealt = [](int count, const std::vector<int>& wanted) {
    Cores cores(count);
    std::vector<std::unique_ptr<CoreShare>> shares;
    std::string result;
    for (const int threads : wanted) shares.push_back(std::make_unique<CoreShare>(cores, threads)), shares.back()->begin();
    for (const auto& share : shares) {
      share->end();
      result += (result.empty() ? "" : " ") + std::to_string(share->begin());
    }
    return result;
  };
  CHECK_EQUAL(dealt(2, {2, 2}), "1 1");
  CHECK_EQUAL(dealt(8, {8, 8}), "4 4");
  CHECK_EQUAL(dealt(8, {8, 1}), "7 1");  // what one does not want is the other's
  CHECK_EQUAL(dealt(8, {2, 3}), "2 3");  // enough for all
  CHECK_EQUAL(dealt(5, {8, 8}), "3 2");  // never more than there are
  CHECK_EQUAL(dealt(8, {8, 8, 1}), "4 3 1");
  CHECK_EQUAL(dealt(2, {2, 2, 2}), "1 1 1");  // a kernel runs on something
}

TEST(cores_come_back_when_others_stop) {
  Cores cores(4);
  CoreShare one(cores, 4);
  {
    CoreShare other(cores, 4);
    CHECK_EQUAL(one.begin(), 4);
    one.end();
    CHECK_EQUAL(other.begin(), 2);  // the first only pauses
    CHECK_EQUAL(one.begin(), 2);
    one.end();
    other.end();
    CHECK_EQUAL(one.begin(), 2);
    one.end();
    wait_for_idle();
    CHECK_EQUAL(one.begin(), 4);
    one.end();
    CHECK_EQUAL(other.begin(), 2);
  }
  CHECK_EQUAL(one.begin(), 4);  // closed in the middle of a kernel
}

// Devices that come and go and compute, from many threads: kernels that know of each other never have more threads than cores.
TEST(cores_are_never_dealt_twice) {
  constexpr int kCores = 8, kThreads = 4, kRounds = 200, kKernels = 20;
  Cores cores(kCores);
  std::atomic<int> kernels{0}, least{kCores}, most{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < kRounds; round++) {
        CoreShare share(cores, 1 + (i + round) % kCores);
        for (int kernel = 0; kernel < kKernels; kernel++) {
          const int dealt = share.begin();
          for (int seen = least; dealt < seen && !least.compare_exchange_weak(seen, dealt);) {
          }
          for (int seen = most; dealt > seen && !most.compare_exchange_weak(seen, dealt);) {
          }
          kernels++;
          share.end();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQUAL(kernels, kThreads * kRounds * kKernels);
  CHECK(least >= 1);
  CHECK(most <= kCores);
}

}  // namespace
}  // namespace sidetune::cpu
