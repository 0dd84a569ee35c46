// The functions that g++ -fsanitize=thread calls.
#include <cstdint>
#include <string>

#include "checker.h"
#include "execution_state.h"

using namespace sidetune::emulation;

namespace {

// g++ calls these for what it knows to be aligned (16 bytes to 8).
template <size_t Bytes>
void check_aligned(const void* data, Access access, const void* instruction) {
  if (!running) return;
  constexpr size_t kAlignment = Bytes < 8 ? Bytes : 8;
  if (reinterpret_cast<uintptr_t>(data) % kAlignment != 0) {
    running->fail({}, "%s: %s %zu bytes at an address that is no multiple of it", text_of_instruction(instruction).c_str(),
                  access == Access::read ? "reads" : "writes", Bytes);
  }
  check_access(data, Bytes, access, instruction);
}

}  // namespace

#define SIDETUNE_HOOKS(bytes)                                                                                             \
  void __tsan_read##bytes(void* data) { check_aligned<bytes>(data, Access::read, __builtin_return_address(0)); }          \
  void __tsan_write##bytes(void* data) { check_aligned<bytes>(data, Access::write, __builtin_return_address(0)); }        \
  void __tsan_unaligned_read##bytes(void* data) { check_access(data, bytes, Access::read, __builtin_return_address(0)); } \
  void __tsan_unaligned_write##bytes(void* data) { check_access(data, bytes, Access::write, __builtin_return_address(0)); }

// Atomic operations are done here, after the check.
#define SIDETUNE_FETCH(T, bits, name)                                                           \
  T __tsan_atomic##bits##_fetch_##name(volatile T* data, T value, int) {                        \
    check_access(const_cast<T*>(data), sizeof(T), Access::atomic, __builtin_return_address(0)); \
    return __atomic_fetch_##name(data, value, __ATOMIC_SEQ_CST);                                \
  }
#define SIDETUNE_ATOMICS(T, bits)                                                                         \
  T __tsan_atomic##bits##_load(const volatile T* data, int) {                                             \
    check_access(const_cast<const T*>(data), sizeof(T), Access::atomic, __builtin_return_address(0));     \
    return __atomic_load_n(data, __ATOMIC_SEQ_CST);                                                       \
  }                                                                                                       \
  void __tsan_atomic##bits##_store(volatile T* data, T value, int) {                                      \
    check_access(const_cast<T*>(data), sizeof(T), Access::write, __builtin_return_address(0));            \
    __atomic_store_n(data, value, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                       \
  T __tsan_atomic##bits##_exchange(volatile T* data, T value, int) {                                      \
    check_access(const_cast<T*>(data), sizeof(T), Access::atomic, __builtin_return_address(0));           \
    return __atomic_exchange_n(data, value, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* data, T* expected, T value, int, int) {   \
    check_access(const_cast<T*>(data), sizeof(T), Access::atomic, __builtin_return_address(0));           \
    return __atomic_compare_exchange_n(data, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* data, T* expected, T value, int, int) {     \
    check_access(const_cast<T*>(data), sizeof(T), Access::atomic, __builtin_return_address(0));           \
    return __atomic_compare_exchange_n(data, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                                       \
  SIDETUNE_FETCH(T, bits, add)                                                                            \
  SIDETUNE_FETCH(T, bits, sub)                                                                            \
  SIDETUNE_FETCH(T, bits, and)                                                                            \
  SIDETUNE_FETCH(T, bits, or)                                                                             \
  SIDETUNE_FETCH(T, bits, xor)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}

SIDETUNE_HOOKS(1)
SIDETUNE_HOOKS(2)
SIDETUNE_HOOKS(4)
SIDETUNE_HOOKS(8)
SIDETUNE_HOOKS(16)
void __tsan_read_range(void* data, size_t bytes) { check_access(data, bytes, Access::read, __builtin_return_address(0)); }
void __tsan_write_range(void* data, size_t bytes) { check_access(data, bytes, Access::write, __builtin_return_address(0)); }

SIDETUNE_ATOMICS(uint8_t, 8)
SIDETUNE_ATOMICS(uint16_t, 16)
SIDETUNE_ATOMICS(uint32_t, 32)
SIDETUNE_ATOMICS(uint64_t, 64)

}  // extern "C"
