// What the runtime tells a checker of loads and stores (checker.cc), where one is linked in.
#pragma once

#include "execution.h"
#include "memory.h"

namespace sidetune::emulation {

class Observer {
 public:
  virtual ~Observer() = default;

  virtual void begin_launch(const Launch& launch) = 0;
  virtual void end_launch() = 0;
  virtual void begin_block() = 0;
  virtual void block_barrier() = 0;
  virtual void warp_barrier(int first_thread, unsigned mask) = 0;

  // Instructions that the runtime carries out for `thread`.
  virtual void read(int thread, const void* data, size_t bytes, Place place) = 0;
  virtual void written(int thread, const void* data, size_t bytes, Place place) = 0;
  // Shared memory whose content is on its way: nobody may read it.
  virtual void awaited(const void* shared, size_t bytes) = 0;

  // Work on a stream between launches.
  virtual void written_by_stream(const void* data, size_t bytes) = 0;
  virtual void filled_with_nan(const void* data, size_t bytes) = 0;  // as new memory is: counts as never written
  virtual void copied_by_stream(const void* to, const void* from, size_t bytes) = 0;
  // False, reported, when some of it was never written.
  virtual bool read_by_stream(const std::string& what, const void* data, size_t bytes) = 0;
  // The allocation begins or ends: what is known of the place is of another one.
  virtual void forget(const Allocation& allocation) = 0;
};

// Null without a checker.
extern Observer* observer;

}  // namespace sidetune::emulation
