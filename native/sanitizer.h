// Memory that nobody may touch now, as AddressSanitizer is to know it. Both do nothing in other builds.
#pragma once

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace sidetune {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
inline void poison(const void* data, int64_t bytes) { __asan_poison_memory_region(data, bytes); }
inline void unpoison(const void* data, int64_t bytes) { __asan_unpoison_memory_region(data, bytes); }
#else
constexpr bool kSanitized = false;
inline void poison(const void*, int64_t) {}
inline void unpoison(const void*, int64_t) {}
#endif

}  // namespace sidetune
