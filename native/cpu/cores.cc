#include "cores.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>

namespace sidetune::cpu {
namespace {

// A device computes still when its last kernel ended so little before: between kernels, and while JavaScript reads a loss.
constexpr std::chrono::milliseconds kPause{2};

// A control group may allow less than the machine has: "cpu.max" holds quota and period in microseconds, or "max".
double group_cores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0) return std::atof(quota.c_str()) / period;
  return 1e9;
}

}  // namespace

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores =
      sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return std::max(1, std::min(cores, static_cast<int>(std::floor(std::max(1.0, group_cores())))));
}

Cores& Cores::of_process() {
  static Cores* cores = new Cores(available_cores());  // never destroyed: stream threads may outlive the statics of this library
  return *cores;
}

CoreShare::CoreShare(Cores& cores, int threads) : cores_(cores), threads_(threads) {
  const std::lock_guard<std::mutex> lock(cores_.mutex_);
  cores_.shares_.push_back(this);
}

CoreShare::~CoreShare() {
  const std::lock_guard<std::mutex> lock(cores_.mutex_);
  cores_.shares_.erase(std::find(cores_.shares_.begin(), cores_.shares_.end(), this));
}

bool CoreShare::computes(Clock::time_point now) const { return running_ || now - ended_ < kPause; }

int CoreShare::begin() {
  const std::lock_guard<std::mutex> lock(cores_.mutex_);
  running_ = true;
  const Clock::time_point now = Clock::now();
  const auto computes = [&](const CoreShare* share) { return share->computes(now); };
  if (std::count_if(cores_.shares_.begin(), cores_.shares_.end(), computes) == 1) return threads_;
  // One by one, to each device in turn that wants another.
  int dealt = 0;
  for (int left = cores_.count_, round = 0; left > 0 && round < threads_; round++) {
    for (const CoreShare* share : cores_.shares_) {
      if (left == 0 || share->threads_ <= round || !computes(share)) continue;
      left--;
      if (share == this) dealt++;
    }
  }
  return std::max(dealt, 1);
}

void CoreShare::end() {
  const std::lock_guard<std::mutex> lock(cores_.mutex_);
  running_ = false;
  ended_ = Clock::now();
}

}  // namespace sidetune::cpu
