#include "trace.h"

namespace sidetune {

int64_t Trace::append(const char* kernel, uint64_t call, TraceNote note) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto index = static_cast<int64_t>(calls_.size());
  is_open_ = index < limit_;
  if (!is_open_) return dropped_++, -1;
  calls_.push_back({kernel, call, label_, std::move(note)});
  return index;
}

void Trace::queued() {
  if (!is_open_) return;
  is_open_ = false;
  const std::lock_guard<std::mutex> lock(mutex_);
  calls_.back().queued = now();
}

void Trace::ran(int64_t index, double from, double to) {
  const std::lock_guard<std::mutex> lock(mutex_);
  TracedCall& call = calls_[static_cast<size_t>(index)];
  call.ran_from = from, call.ran_to = to;
}

std::vector<TracedCall> Trace::calls() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return calls_;
}

}  // namespace sidetune
