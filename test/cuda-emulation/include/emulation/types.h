// CUDA's keywords and vector types.
#pragma once

#include <cstddef>
#include <cstdint>

#define __host__
#define __device__
#define __global__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// Each thread of the operating system that runs a grid has its own. `extern` arrays only: the emulation defines one,
// sidetune_shared, and a shared array inside a kernel is a compile error, because it could not be filled, bounded or watched.
#define __shared__ __thread

namespace sidetune::emulation {

// Ends the kernel with a report when `address` is no multiple of `alignment`. Only builds whose loads and stores are watched call
// it: scalar copies of a vector's members would hide a misaligned vector.
void check_alignment(const void* address, size_t alignment, bool writes);

inline void check_vector(const void* address, size_t alignment, bool writes) {
#ifdef __SANITIZE_THREAD__
  check_alignment(address, alignment, writes);
#else
  (void)address, (void)alignment, (void)writes;
#endif
}

}  // namespace sidetune::emulation

// Copying is written out, member by member: g++ does not watch (-fsanitize=thread) the copy of a struct as a whole that is an
// operand of a call.
#define SIDETUNE_VECTOR_2(Vector, Scalar)                               \
  struct __align__(2 * sizeof(Scalar)) Vector {                         \
    Scalar x, y;                                                        \
    Vector() = default;                                                 \
    constexpr Vector(Scalar x, Scalar y) : x(x), y(y) {}                \
    Vector(const Vector& from) {                                        \
      sidetune::emulation::check_vector(&from, alignof(Vector), false); \
      x = from.x, y = from.y;                                           \
    }                                                                   \
    Vector& operator=(const Vector& from) {                             \
      const Scalar values[] = {from.x, from.y};                         \
      sidetune::emulation::check_vector(&from, alignof(Vector), false); \
      sidetune::emulation::check_vector(this, alignof(Vector), true);   \
      x = values[0], y = values[1];                                     \
      return *this;                                                     \
    }                                                                   \
  };                                                                    \
  inline Vector make_##Vector(Scalar x, Scalar y) { return Vector(x, y); }

#define SIDETUNE_VECTOR_3(Vector, Scalar)                                \
  struct Vector {                                                        \
    Scalar x, y, z;                                                      \
    Vector() = default;                                                  \
    constexpr Vector(Scalar x, Scalar y, Scalar z) : x(x), y(y), z(z) {} \
    Vector(const Vector& from) { x = from.x, y = from.y, z = from.z; }   \
    Vector& operator=(const Vector& from) {                              \
      x = from.x, y = from.y, z = from.z;                                \
      return *this;                                                      \
    }                                                                    \
  };                                                                     \
  inline Vector make_##Vector(Scalar x, Scalar y, Scalar z) { return Vector(x, y, z); }

#define SIDETUNE_VECTOR_4(Vector, Scalar)                                                \
  struct __align__(4 * sizeof(Scalar)) Vector {                                          \
    Scalar x, y, z, w;                                                                   \
    Vector() = default;                                                                  \
    constexpr Vector(Scalar x, Scalar y, Scalar z, Scalar w) : x(x), y(y), z(z), w(w) {} \
    Vector(const Vector& from) {                                                         \
      sidetune::emulation::check_vector(&from, alignof(Vector), false);                  \
      x = from.x, y = from.y, z = from.z, w = from.w;                                    \
    }                                                                                    \
    Vector& operator=(const Vector& from) {                                              \
      const Scalar values[] = {from.x, from.y, from.z, from.w};                          \
      sidetune::emulation::check_vector(&from, alignof(Vector), false);                  \
      sidetune::emulation::check_vector(this, alignof(Vector), true);                    \
      x = values[0], y = values[1], z = values[2], w = values[3];                        \
      return *this;                                                                      \
    }                                                                                    \
  };                                                                                     \
  inline Vector make_##Vector(Scalar x, Scalar y, Scalar z, Scalar w) { return Vector(x, y, z, w); }

SIDETUNE_VECTOR_2(float2, float)
SIDETUNE_VECTOR_3(float3, float)
SIDETUNE_VECTOR_4(float4, float)
SIDETUNE_VECTOR_2(int2, int)
SIDETUNE_VECTOR_3(int3, int)
SIDETUNE_VECTOR_4(int4, int)
SIDETUNE_VECTOR_2(uint2, unsigned)
SIDETUNE_VECTOR_3(uint3, unsigned)
SIDETUNE_VECTOR_4(uint4, unsigned)

#undef SIDETUNE_VECTOR_2
#undef SIDETUNE_VECTOR_3
#undef SIDETUNE_VECTOR_4

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(const uint3& from) : x(from.x), y(from.y), z(from.z) {}
};
