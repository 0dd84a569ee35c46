// Numbers in memory and in registers: V at a time, f32, bf16 or pixels outside, f32 inside.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../tensor.h"

namespace sidetune::cuda {

using bf16_t = __nv_bfloat16;

template <int V>
struct Numbers {
  float at[V];
  __device__ float& operator[](int i) { return at[i]; }
  __device__ float operator[](int i) const { return at[i]; }
};

__device__ inline float widen(uint32_t bf16_bits) { return __uint_as_float(bf16_bits << 16); }

__device__ inline float number(float value) { return value; }
__device__ inline float number(bf16_t value) { return __bfloat162float(value); }
__device__ inline void set(float* to, float value) { *to = value; }
__device__ inline void set(bf16_t* to, float value) { *to = __float2bfloat16_rn(value); }

__device__ inline uint32_t pair(float low, float high) {
  const __nv_bfloat162 rounded = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&rounded);
}

// V is 8 or 4, and `from` a multiple of V numbers away from the start of a tensor, so 16-byte accesses (8 for four bf16) are
// aligned; or V is 1.
template <int V>
__device__ inline Numbers<V> load(const float* from) {
  Numbers<V> numbers;
  if constexpr (V == 1) {
    numbers[0] = *from;
  } else {
#pragma unroll
    for (int i = 0; i < V / 4; i++) {
      const float4 four = reinterpret_cast<const float4*>(from)[i];
      numbers[4 * i] = four.x, numbers[4 * i + 1] = four.y, numbers[4 * i + 2] = four.z, numbers[4 * i + 3] = four.w;
    }
  }
  return numbers;
}

template <int V>
__device__ inline Numbers<V> load(const bf16_t* from) {
  Numbers<V> numbers;
  if constexpr (V == 1) {
    numbers[0] = number(*from);
  } else if constexpr (V == 4) {
    const uint2 four = *reinterpret_cast<const uint2*>(from);
    numbers[0] = widen(four.x & 0xffff), numbers[1] = widen(four.x >> 16);
    numbers[2] = widen(four.y & 0xffff), numbers[3] = widen(four.y >> 16);
  } else {
    const uint4 eight = *reinterpret_cast<const uint4*>(from);
    numbers[0] = widen(eight.x & 0xffff), numbers[1] = widen(eight.x >> 16);
    numbers[2] = widen(eight.y & 0xffff), numbers[3] = widen(eight.y >> 16);
    numbers[4] = widen(eight.z & 0xffff), numbers[5] = widen(eight.z >> 16);
    numbers[6] = widen(eight.w & 0xffff), numbers[7] = widen(eight.w >> 16);
  }
  return numbers;
}

template <int V>
__device__ inline Numbers<V> load(const uint8_t* from) {
  Numbers<V> numbers;
  if constexpr (V == 1) {
    numbers[0] = static_cast<float>(*from);
  } else {
    static_assert(V == 8, "bytes are read eight at a time");
    const uint2 eight = *reinterpret_cast<const uint2*>(from);
#pragma unroll
    for (int i = 0; i < V; i++) numbers[i] = static_cast<float>((i < 4 ? eight.x : eight.y) >> (i % 4 * 8) & 0xff);
  }
  return numbers;
}

template <int V>
__device__ inline void store(float* to, const Numbers<V>& numbers) {
  if constexpr (V == 1) {
    *to = numbers[0];
  } else {
#pragma unroll
    for (int i = 0; i < V / 4; i++) {
      reinterpret_cast<float4*>(to)[i] = make_float4(numbers[4 * i], numbers[4 * i + 1], numbers[4 * i + 2], numbers[4 * i + 3]);
    }
  }
}

template <int V>
__device__ inline void store(bf16_t* to, const Numbers<V>& numbers) {
  if constexpr (V == 1) {
    set(to, numbers[0]);
  } else if constexpr (V == 4) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pair(numbers[0], numbers[1]), pair(numbers[2], numbers[3]));
  } else {
    *reinterpret_cast<uint4*>(to) = make_uint4(pair(numbers[0], numbers[1]), pair(numbers[2], numbers[3]),
                                               pair(numbers[4], numbers[5]), pair(numbers[6], numbers[7]));
  }
}

// Whole numbers from 0 to 255.
template <int V>
__device__ inline void store(uint8_t* to, const Numbers<V>& numbers) {
  if constexpr (V == 1) {
    *to = static_cast<uint8_t>(numbers[0]);
  } else {
    static_assert(V == 8, "bytes are written eight at a time");
    uint2 eight = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < V; i++) (i < 4 ? eight.x : eight.y) |= static_cast<uint32_t>(numbers[i]) << (i % 4 * 8);
    *reinterpret_cast<uint2*>(to) = eight;
  }
}

// Run-time choices as template arguments: body(Type<float>{}) or body(Type<bf16_t>{}); body(Width<8>{}) or body(Width<1>{}).
template <class T>
struct Type {
  using type = T;
};
template <int V>
struct Width {
  static constexpr int value = V;
};

template <class Body>
void dispatch(DType dtype, const Body& body) {
  dtype == DType::bf16 ? body(Type<bf16_t>{}) : body(Type<float>{});
}
// Rows of `width` numbers are read in vectors where vectors fill them.
template <class Body>
void dispatch_width(int64_t width, const Body& body) {
  width % 8 == 0 ? body(Width<8>{}) : body(Width<1>{});
}
// The same in vectors of four, 16 bytes of f32: for f32 rows beside which bf16 rows stand.
template <class Body>
void dispatch_fours(int64_t width, const Body& body) {
  width % 4 == 0 ? body(Width<4>{}) : body(Width<1>{});
}

}  // namespace sidetune::cuda
