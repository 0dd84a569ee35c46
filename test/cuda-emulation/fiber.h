// Threads of execution that hand the processor to each other themselves.
#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace sidetune::emulation {

// Where a fiber stands while another one runs.
class Fiber {
 public:
  // Makes the fiber begin with entry() on the given stack; entry() calls arrive() first and does not return.
  void begin(void* stack, size_t bytes, void (*entry)());
  void arrive();
  // Goes on with `to`; comes back when somebody switches to this one, which stands for the code that called.
  void switch_to(Fiber& to);
  // The same for good.
  [[noreturn]] void leave_for(Fiber& to);
  // Stands for the thread of the operating system that calls.
  void adopt_thread();

 private:
  void announce(Fiber& to, bool comes_back);
  void exchange(Fiber& to);

#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  // For AddressSanitizer, which must know on which stack it is.
  void* stack_ = nullptr;
  size_t bytes_ = 0;
  void* fake_stack_ = nullptr;
};

// Stacks side by side in one range of addresses, each with a page below it that nobody may touch. Memory comes when it is used.
class Stacks {
 public:
  static constexpr size_t kBytes = size_t{256} << 10;

  Stacks(int count);
  ~Stacks();
  Stacks(const Stacks&) = delete;

  // The part of stack `index` to be used. Tops lie at different distances from the page: stacks at equal ones would share sets of
  // the processor's caches.
  void* begin(int index);
  size_t bytes(int index) const;
  bool contains(const void* address) const { return address >= memory_ && address < memory_ + kStride * count_; }

 private:
  static constexpr size_t kStride = kBytes + 4096;

  const int count_;
  char* memory_;
  std::vector<bool> is_open_;
};

}  // namespace sidetune::emulation
