#include "execution.h"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "errors.h"
#include "execution_state.h"
#include "native/sanitizer.h"
#include "observer.h"

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread dim3 blockDim;
__thread dim3 gridDim;
__shared__ __align__(128) unsigned char sidetune_shared[sidetune::emulation::kMostSharedBytes + sidetune::emulation::kSharedRoom];

namespace sidetune::emulation {

Observer* observer = nullptr;
__thread Execution* running = nullptr;

namespace {

thread_local std::unique_ptr<Execution> execution_of_thread;

std::string text_of(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}
std::string text_of(Place place) { return std::string(place.file) + ":" + std::to_string(place.line); }

}  // namespace

Execution::Execution() : stacks_(kMostThreads), fibers_(kMostThreads), has_begun_(kMostThreads) {
  for (int fiber = kMostThreads - 1; fiber >= 0; fiber--) free_fibers_.push_back(fiber);
}

void Execution::run(const Launch& launch) {
  const Configuration configuration = emulation::configuration();
  launch_ = &launch;
  order_ = configuration.order;
  random_.seed(configuration.seed);
  left_out_file_ = configuration.left_out_file;
  left_out_line_ = configuration.left_out_line;
  failed_ = false;
  copied_from = {};
  gridDim = launch.grid;
  blockDim = launch.block;
  const int64_t blocks = static_cast<int64_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
  thread_count_ = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  threads_.resize(static_cast<size_t>(thread_count_));
  warps_.resize(static_cast<size_t>((thread_count_ + 31) / 32));
  index_of_place_.resize(static_cast<size_t>(thread_count_));
  running = this;
  main_.adopt_thread();
  // What lies behind the launch's shared memory is there, and nobody's.
  const int64_t behind = static_cast<int64_t>(sizeof sidetune_shared - launch.shared_bytes);
  poison(sidetune_shared + launch.shared_bytes, behind);
  if (observer) observer->begin_launch(launch);
  std::vector<uint32_t> shuffled;
  if (order_ == Order::shuffled) {
    shuffled.resize(static_cast<size_t>(blocks));
    std::iota(shuffled.begin(), shuffled.end(), 0u);
    std::shuffle(shuffled.begin(), shuffled.end(), random_);
  }
  for (int64_t place = 0; place < blocks && !failed_; place++) {
    const int64_t block = order_ == Order::shuffled     ? shuffled[static_cast<size_t>(place)]
                          : order_ == Order::descending ? blocks - 1 - place
                                                        : place;
    run_block(block);
  }
  if (failed_) give_up_fibers();
  unpoison(sidetune_shared + launch.shared_bytes, behind);
  if (observer) observer->end_launch();
  running = nullptr;
}

void Execution::run_block(int64_t block) {
  blockIdx =
      uint3(static_cast<unsigned>(block % launch_->grid.x), static_cast<unsigned>(block / launch_->grid.x % launch_->grid.y),
            static_cast<unsigned>(block / launch_->grid.x / launch_->grid.y));
  std::memset(sidetune_shared, 0xff, launch_->shared_bytes);
  for (int index = 0; index < thread_count_; index++) threads_[index] = {};
  for (Warp& warp : warps_) warp.exited = 0, warp.meetings.clear();
  copies_.clear();
  permute(index_of_place_);
  ready_.clear();
  unstarted_ = 0;
  exited_ = 0;
  at_barrier_ = 0;
  barrier_sum_ = 0;
  if (observer) observer->begin_block();
  start_fiber(main_);
}

// Fills `order` with the order in which threads get their turn.
void Execution::permute(std::vector<int>& order) {
  std::iota(order.begin(), order.end(), 0);
  if (order_ == Order::descending) std::reverse(order.begin(), order.end());
  if (order_ == Order::shuffled) std::shuffle(order.begin(), order.end(), random_);
}

void Execution::start_fiber(Fiber& from) {
  fiber_ = free_fibers_.back();
  free_fibers_.pop_back();
  if (!has_begun_[fiber_]) {
    fibers_[fiber_].begin(stacks_.begin(fiber_), stacks_.bytes(fiber_), [] { running->run_threads(); });
    has_begun_[fiber_] = true;
  }
  from.switch_to(fibers_[fiber_]);
}

// A fiber's life: threads that end without waiting leave it to the next one, and blocks to the next block.
void Execution::run_threads() {
  fibers_[fiber_].arrive();
  for (;;) {
    do {
      thread_ = index_of_place_[unstarted_++];
      threads_[thread_].fiber = fiber_;
      set_thread_index();
      launch_->call->run();
      end_thread();
    } while (ready_.empty() && unstarted_ < thread_count_);
    if (ready_.empty() && exited_ < thread_count_) fail_deadlock();
    Fiber& own = fibers_[fiber_];
    free_fibers_.push_back(fiber_);
    own.switch_to(ready_.empty() ? main_ : next_ready());
  }
}

void Execution::set_thread_index() {
  const unsigned index = static_cast<unsigned>(thread_), x = launch_->block.x, y = launch_->block.y;
  threadIdx.x = index % x, threadIdx.y = index / x % y, threadIdx.z = index / x / y;
}

void Execution::end_thread() {
  Thread& thread = threads_[thread_];
  thread.wait = Wait::ended;
  exited_++;
  Warp& warp = warps_[thread_ / 32];
  warp.exited |= 1u << (thread_ % 32);
  if (at_barrier_ > 0)
    fail({}, "ends while other threads of its block wait at %s:%d (__syncthreads)", barrier_place_.file, barrier_place_.line);
  for (const Meeting& meeting : warp.meetings) {
    if (meeting.mask & (1u << (thread_ % 32)))
      fail({}, "ends while other lanes of its warp wait for it at %s:%d (%s)", meeting.place.file, meeting.place.line,
           meeting.name);
  }
}

// Makes the first ready thread the one that runs; its fiber is to be switched to.
Fiber& Execution::next_ready() {
  thread_ = ready_.front();
  ready_.pop_front();
  fiber_ = threads_[thread_].fiber;
  threads_[thread_].wait = Wait::none;
  set_thread_index();
  return fibers_[fiber_];
}

// The thread that runs has said what it waits for. Comes back when it has been made ready.
void Execution::wait() {
  Fiber& fiber = fibers_[fiber_];
  if (!ready_.empty()) {
    Fiber& next = next_ready();
    if (&next != &fiber) fiber.switch_to(next);
  } else if (unstarted_ < thread_count_) {
    start_fiber(fiber);
  } else {
    fail_deadlock();
  }
}

// What SIDETUNE_EMULATION's "without" names is as if it were not written.
bool Execution::is_left_out(Place place) const {
  if (place.line != left_out_line_) return false;
  const char* slash = std::strrchr(place.file, '/');
  return left_out_file_ == (slash ? slash + 1 : place.file);
}

int Execution::block_barrier(Barrier kind, int predicate, Place place) {
  if (kind == Barrier::plain && is_left_out(place)) return 0;
  if (exited_ > 0) fail(place, "waits at a barrier that %d threads of its block never reach: they have ended", exited_);
  if (at_barrier_ == 0) {
    barrier_place_ = place;
    barrier_kind_ = kind;
    barrier_sum_ = 0;
  } else if (place.line != barrier_place_.line || std::strcmp(place.file, barrier_place_.file) != 0) {
    fail(place, "waits at one barrier while other threads of its block wait at another, %s:%d", barrier_place_.file,
         barrier_place_.line);
  } else if (kind != barrier_kind_) {
    fail(place, "waits at another kind of barrier than other threads of its block");
  }
  barrier_sum_ += predicate != 0;
  Thread& thread = threads_[thread_];
  thread.place = place;
  if (++at_barrier_ < thread_count_) {
    thread.wait = Wait::barrier;
    wait();
  } else {
    at_barrier_ = 0;
    barrier_result_ = kind == Barrier::count  ? barrier_sum_
                      : kind == Barrier::both ? barrier_sum_ == thread_count_
                                              : barrier_sum_ > 0;
    if (observer) observer->block_barrier();
    wake_block();
  }
  return barrier_result_;
}

// Everybody takes a turn anew, in the launch's order; the thread that came last waits for its own, too.
void Execution::wake_block() {
  permute(index_of_place_);
  for (int thread : index_of_place_) ready_.push_back(thread);
  wait();
}

void Execution::warp_meeting(const char* name, unsigned mask, void* brought, Complete complete, Place place) {
  if (!complete && is_left_out(place)) return;  // __syncwarp
  const int lane = thread_ % 32, first = thread_ - lane, lanes = std::min(32, thread_count_ - first);
  const unsigned existing = lanes == 32 ? ~0u : (1u << lanes) - 1;
  Warp& warp = warps_[thread_ / 32];
  if (!(mask & (1u << lane))) fail(place, "%s: its lane %d is not in the mask it gives", name, lane);
  mask &= existing;
  if (mask & warp.exited) fail(place, "%s waits for lanes that have ended", name);
  Meeting* meeting = nullptr;
  for (Meeting& other : warp.meetings) {
    if (other.mask == mask) {
      meeting = &other;
    } else if (other.mask & mask) {
      fail(place, "%s names other lanes than the lanes that wait at %s:%d (%s)", name, other.place.file, other.place.line,
           other.name);
    }
  }
  if (!meeting) {
    warp.meetings.push_back({mask, 0, name, place, {}});
    meeting = &warp.meetings.back();
  } else if (place.line != meeting->place.line || std::strcmp(place.file, meeting->place.file) != 0 ||
             std::strcmp(name, meeting->name) != 0) {
    fail(place, "%s meets lanes of its warp that wait elsewhere, at %s:%d (%s)", name, meeting->place.file, meeting->place.line,
         meeting->name);
  }
  meeting->arrived |= 1u << lane;
  meeting->brought[lane] = brought;
  threads_[thread_].place = place;
  if (meeting->arrived != mask) {
    threads_[thread_].wait = Wait::warp;
    threads_[thread_].name = name;
    wait();
    return;
  }
  const std::array<void*, 32> everything = meeting->brought;
  *meeting = warp.meetings.back();
  warp.meetings.pop_back();
  if (complete)
    complete(mask, everything.data());
  else if (observer)
    observer->warp_barrier(first, mask);  // other meetings do not order memory
  // Lanes take turns anew, in the launch's order.
  std::array<int, 32> order;
  int count = 0;
  for (int other = 0; other < 32; other++)
    if (mask & (1u << other)) order[count++] = first + other;
  if (count == 1) return;
  if (order_ == Order::descending) std::reverse(order.begin(), order.begin() + count);
  if (order_ == Order::shuffled) std::shuffle(order.begin(), order.begin() + count, random_);
  for (int i = 0; i < count; i++) ready_.push_back(order[i]);
  wait();
}

void Execution::fail_deadlock() {
  const auto waits = [](const Thread& thread) { return thread.wait == Wait::barrier || thread.wait == Wait::warp; };
  thread_ = 0;
  while (!waits(threads_[thread_])) thread_++;
  set_thread_index();
  const Thread& first = threads_[thread_];
  const Thread* other = nullptr;
  for (const Thread& thread : threads_)
    if (!other && waits(thread) && thread.place.line != first.place.line) other = &thread;
  const char* name = first.wait == Wait::barrier ? "__syncthreads" : first.name;
  if (!other) fail(first.place, "waits for ever in %s", name);
  fail(first.place, "waits for ever in %s, and another thread at %s:%d", name, other->place.file, other->place.line);
}

Copies& Execution::copies_of_thread() {
  copies_.resize(static_cast<size_t>(thread_count_));
  return copies_[thread_];
}

void Execution::report_by_thread(Place place, const char* what) const {
  const std::string where = place.file ? ", " + text_of(place) : "";
  report("kernel " + kernel_name(launch_->call->kernel) + ", block " + text_of(blockIdx) + ", thread " + text_of(threadIdx) +
         where + ": " + what);
}

// Nobody comes back to the fibers of this grid, so nothing that must be destroyed may be on their stacks: hence no strings.
void Execution::fail(Place place, const char* format, ...) {
  char what[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  report_by_thread(place, what);
  failed_ = true;
  fibers_[fiber_].leave_for(main_);
}

// The fibers of a grid that failed stand in the middle of threads that nobody goes on with.
void Execution::give_up_fibers() {
  std::vector<bool> is_free(kMostThreads);
  for (int fiber : free_fibers_) is_free[fiber] = true;
  for (int fiber = 0; fiber < kMostThreads; fiber++) {
    if (is_free[fiber]) continue;
    has_begun_[fiber] = false;
    free_fibers_.push_back(fiber);
  }
}

void run_grid(const Launch& launch) {
  if (!execution_of_thread) execution_of_thread = std::make_unique<Execution>();
  execution_of_thread->run(launch);
}

Execution& execution() {
  if (running) return *running;
  report("device code was called outside of a kernel");
  throw std::logic_error("device code was called outside of a kernel");
}

int block_barrier(Barrier kind, int predicate, Place place) { return execution().block_barrier(kind, predicate, place); }
void warp_meeting(const char* name, unsigned mask, void* brought, Complete complete, Place place) {
  execution().warp_meeting(name, mask, brought, complete, place);
}
int lane_of_thread() { return execution().thread() % 32; }
void trap(Place place) { execution().fail(place, "__trap"); }

void complete_shuffle(unsigned mask, void* const* brought) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(mask & (1u << lane))) continue;
    Shuffle& own = *static_cast<Shuffle*>(brought[lane]);
    if (own.source < 0 || own.source > 31 || !(mask & (1u << own.source))) {
      execution().fail(execution().place(), "lane %d of its warp reads lane %d, which takes no part in the shuffle", lane,
                       own.source);
    }
    own.result = static_cast<Shuffle*>(brought[own.source])->value;
  }
}

void complete_vote(unsigned mask, void* const* brought) {
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; lane++)
    if ((mask & (1u << lane)) && static_cast<Vote*>(brought[lane])->predicate) ballot |= 1u << lane;
  for (int lane = 0; lane < 32; lane++)
    if (mask & (1u << lane)) static_cast<Vote*>(brought[lane])->ballot = ballot;
}

}  // namespace sidetune::emulation
