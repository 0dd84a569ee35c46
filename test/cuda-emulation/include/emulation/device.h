// What kernels call: indices, barriers, warp operations, atomics, arithmetic.
#pragma once

#include <math.h>

#include <cstring>
#include <type_traits>

#include "types.h"

#define SIDETUNE_INDEX extern __thread
SIDETUNE_INDEX uint3 threadIdx;
SIDETUNE_INDEX uint3 blockIdx;
SIDETUNE_INDEX dim3 blockDim;
SIDETUNE_INDEX dim3 gridDim;
#undef SIDETUNE_INDEX
constexpr int warpSize = 32;

// --- barriers and warps
namespace sidetune::emulation {

// Where in the source a thread waits. Threads that meet must be in one place.
struct Place {
  const char* file;
  int line;
};

enum class Barrier { plain, count, both, either };
int block_barrier(Barrier kind, int predicate, Place place);

// The lanes of `mask` meet; the last one to come calls `complete` on what all have brought (by lane; null where none is), then
// all go on. `name` is the instruction.
using Complete = void (*)(unsigned mask, void* const* brought);
void warp_meeting(const char* name, unsigned mask, void* brought, Complete complete, Place place);

// A lane's part in a shuffle.
struct Shuffle {
  uint64_t value;
  int source;  // a lane
  uint64_t result;
};
void complete_shuffle(unsigned mask, void* const* brought);

struct Vote {
  bool predicate;
  unsigned ballot;
};
void complete_vote(unsigned mask, void* const* brought);

int lane_of_thread();
[[noreturn]] void trap(Place place);

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, Place place) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move numbers of 4 or 8 bytes");
  Shuffle lane = {0, source, 0};
  std::memcpy(&lane.value, &value, sizeof value);
  warp_meeting(name, mask, &lane, complete_shuffle, place);
  std::memcpy(&value, &lane.result, sizeof value);
  return value;
}

inline unsigned vote(const char* name, unsigned mask, bool predicate, Place place) {
  Vote lane = {predicate, 0};
  warp_meeting(name, mask, &lane, complete_vote, place);
  return lane.ballot;
}

}  // namespace sidetune::emulation

#define SIDETUNE_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
inline void __syncthreads(SIDETUNE_PLACE) {
  sidetune::emulation::block_barrier(sidetune::emulation::Barrier::plain, 0, {file, line});
}
inline int __syncthreads_count(int predicate, SIDETUNE_PLACE) {
  return sidetune::emulation::block_barrier(sidetune::emulation::Barrier::count, predicate, {file, line});
}
inline int __syncthreads_and(int predicate, SIDETUNE_PLACE) {
  return sidetune::emulation::block_barrier(sidetune::emulation::Barrier::both, predicate, {file, line});
}
inline int __syncthreads_or(int predicate, SIDETUNE_PLACE) {
  return sidetune::emulation::block_barrier(sidetune::emulation::Barrier::either, predicate, {file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SIDETUNE_PLACE) {
  sidetune::emulation::warp_meeting("__syncwarp", mask, nullptr, nullptr, {file, line});
}

// Lanes work in groups of `width`, a power of two; who would read outside its group gets its own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIDETUNE_PLACE) {
  const int lane = sidetune::emulation::lane_of_thread(), first = lane & ~(width - 1);
  return sidetune::emulation::shuffle("__shfl_sync", mask, value, first | (source & (width - 1)), {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIDETUNE_PLACE) {
  const int lane = sidetune::emulation::lane_of_thread(), source = lane ^ lane_mask, last = lane | (width - 1);
  return sidetune::emulation::shuffle("__shfl_xor_sync", mask, value, source <= last ? source : lane, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, SIDETUNE_PLACE) {
  const int lane = sidetune::emulation::lane_of_thread(), source = lane + static_cast<int>(distance), last = lane | (width - 1);
  return sidetune::emulation::shuffle("__shfl_down_sync", mask, value, source <= last ? source : lane, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, SIDETUNE_PLACE) {
  const int lane = sidetune::emulation::lane_of_thread(), source = lane - static_cast<int>(distance);
  return sidetune::emulation::shuffle("__shfl_up_sync", mask, value, source >= (lane & ~(width - 1)) ? source : lane,
                                      {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIDETUNE_PLACE) {
  return sidetune::emulation::vote("__ballot_sync", mask, predicate, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, SIDETUNE_PLACE) {
  return sidetune::emulation::vote("__any_sync", mask, predicate, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIDETUNE_PLACE) {
  return sidetune::emulation::vote("__all_sync", mask, !predicate, {file, line}) == 0;
}

inline void __trap(SIDETUNE_PLACE) { sidetune::emulation::trap({file, line}); }
#undef SIDETUNE_PLACE

// Threads of a block run one at a time and see each other's writes at once; the compiler alone could reorder them.
inline void __threadfence() { __asm__ volatile("" ::: "memory"); }
inline void __threadfence_block() { __asm__ volatile("" ::: "memory"); }

// --- atomics
inline int atomicAdd(int* at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline unsigned atomicExch(unsigned* at, unsigned value) { return __atomic_exchange_n(at, value, __ATOMIC_RELAXED); }
inline unsigned atomicCAS(unsigned* at, unsigned expected, unsigned value) {
  __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
inline float atomicAdd(float* at, float value) {
  unsigned* bits = reinterpret_cast<unsigned*>(at);
  for (unsigned before = __atomic_load_n(bits, __ATOMIC_RELAXED);;) {
    float sum;
    std::memcpy(&sum, &before, sizeof sum);
    const float old = sum;
    sum += value;
    unsigned after;
    std::memcpy(&after, &sum, sizeof after);
    const unsigned seen = atomicCAS(bits, before, after);
    if (seen == before) return old;
    before = seen;
  }
}

// --- loads and stores with a hint
template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
void __stcg(T* to, T value) {
  *to = value;
}
template <class T>
void __stcs(T* to, T value) {
  *to = value;
}

// --- bits
template <class To, class From>
To sidetune_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) { return sidetune_bits<unsigned>(x); }
inline int __float_as_int(float x) { return sidetune_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return sidetune_bits<float>(x); }
inline float __int_as_float(int x) { return sidetune_bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>((uint64_t{x} * y) >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<unsigned long long>((static_cast<Wide>(x) * y) >> 64);
}

// --- arithmetic. Fast approximations are computed exactly: how far hardware is off must be measured on hardware.
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(truncf(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float2int_ru(float x) { return static_cast<int>(ceilf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

#define SIDETUNE_MIN_MAX(T)                        \
  inline T min(T x, T y) { return x < y ? x : y; } \
  inline T max(T x, T y) { return x > y ? x : y; }
SIDETUNE_MIN_MAX(int)
SIDETUNE_MIN_MAX(unsigned)
SIDETUNE_MIN_MAX(long)
SIDETUNE_MIN_MAX(unsigned long)
SIDETUNE_MIN_MAX(long long)
SIDETUNE_MIN_MAX(unsigned long long)
#undef SIDETUNE_MIN_MAX
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
