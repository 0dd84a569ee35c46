// The cores that this process may use, dealt out to the devices that compute, in one JavaScript thread or in several. A device
// alone has the threads that were asked for. Devices that compute at the same time have together no more threads than there are
// cores, from each one's next kernel on, or one each where there are more devices than cores. What a kernel computes does not
// depend on it.
//
// Nobody waits. Kernels that took turns instead, each on all threads of its device, left cores idle at every change and while a
// kernel's threads meet: two devices of two threads made 77 images per second together (ViT-Ti, batch 1, 2 cores), against 118 of
// one device alone, 120 to 130 where both compete, and 150 so.
#pragma once

#include <chrono>
#include <mutex>
#include <vector>

namespace sidetune::cpu {

// By this thread's affinity and the quota of its control group; at least 1.
int available_cores();

class Cores {
 public:
  explicit Cores(int count) : count_(count) {}
  Cores(const Cores&) = delete;

  // Those of the process, counted at the first call.
  static Cores& of_process();

 private:
  friend class CoreShare;
  const int count_;
  std::vector<class CoreShare*> shares_;  // of all open devices
  std::mutex mutex_;
};

// What a device has of the cores. Its kernels run one after the other.
class CoreShare {
 public:
  CoreShare(Cores& cores, int threads);
  ~CoreShare();
  CoreShare(const CoreShare&) = delete;

  // A kernel begins. Returns its number of threads: the device's own, or what it is dealt while other devices compute.
  int begin();
  void end();

 private:
  using Clock = std::chrono::steady_clock;
  bool computes(Clock::time_point now) const;

  Cores& cores_;
  const int threads_;
  bool running_ = false;
  Clock::time_point ended_ = {};
};

}  // namespace sidetune::cpu
