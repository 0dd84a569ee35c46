#include "fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "native/sanitizer.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves what a call must preserve on the old stack and takes it from the new one.
asm(R"(
.text
.globl sidetune_emulation_switch
.hidden sidetune_emulation_switch
.type sidetune_emulation_switch, @function
sidetune_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sidetune_emulation_switch, . - sidetune_emulation_switch
)");
extern "C" void sidetune_emulation_switch(void** from, void* to);
#endif

namespace sidetune::emulation {

void Fiber::begin(void* stack, size_t bytes, void (*entry)()) {
  unpoison(stack, static_cast<int64_t>(bytes));  // whoever was here before may never have returned
  stack_ = stack;
  bytes_ = bytes;
  fake_stack_ = nullptr;
#if defined(__x86_64__)
  // As entry() finds it after a call: a return address at the top, aligned to 16 before it was pushed.
  auto* top = reinterpret_cast<uint64_t*>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15});
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; i++) *--top = 0;
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::exchange(Fiber& to) {
#if defined(__x86_64__)
  sidetune_emulation_switch(&stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&context_, &to.context_);
#endif
}

void Fiber::switch_to(Fiber& to) {
  announce(to, true);
  exchange(to);
  arrive();
}

void Fiber::leave_for(Fiber& to) {
  announce(to, false);
  exchange(to);
  __builtin_unreachable();
}

#if defined(__SANITIZE_ADDRESS__)
void Fiber::announce(Fiber& to, bool comes_back) {
  __sanitizer_start_switch_fiber(comes_back ? &fake_stack_ : nullptr, to.stack_, to.bytes_);
}
void Fiber::arrive() { __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr); }
void Fiber::adopt_thread() {
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack_, &bytes_);
  pthread_attr_destroy(&attributes);
}
#else
void Fiber::announce(Fiber&, bool) {}
void Fiber::arrive() {}
void Fiber::adopt_thread() {}
#endif

Stacks::Stacks(int count) : count_(count), is_open_(static_cast<size_t>(count)) {
  void* memory = mmap(nullptr, kStride * count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(memory);
}

Stacks::~Stacks() {
  // Fibers never return, so their frames are still marked; whoever gets these addresses next must not find that.
  for (int index = 0; index < count_; index++)
    if (is_open_[index]) unpoison(memory_ + kStride * index, kStride);
  munmap(memory_, kStride * count_);
}

void* Stacks::begin(int index) {
  char* stack = memory_ + kStride * index + (kStride - kBytes);
  if (!is_open_[index]) {
    if (mprotect(stack, kBytes, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    is_open_[index] = true;
  }
  return stack;
}

size_t Stacks::bytes(int index) const { return kBytes - static_cast<size_t>(index) * 1088 % (48 << 10); }

}  // namespace sidetune::emulation
