// Stands in for the CUDA toolkit's header of this name (see cuda_runtime.h): bfloat16, rounded to nearest even.
#pragma once

#include "cuda_runtime.h"

struct __nv_bfloat16 {
  __nv_bfloat16() = default;
  __nv_bfloat16(const __nv_bfloat16& from) { bits_ = from.bits_; }  // written out: see types.h
  __nv_bfloat16& operator=(const __nv_bfloat16& from) {
    bits_ = from.bits_;
    return *this;
  }

  friend __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits);
  friend unsigned short __bfloat16_as_ushort(__nv_bfloat16 x);

 private:
  unsigned short bits_;
};

struct __align__(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;  // x in the lower half
  __nv_bfloat162() = default;
  __nv_bfloat162(const __nv_bfloat16& x, const __nv_bfloat16& y) : x(x), y(y) {}
  __nv_bfloat162(const __nv_bfloat162& from) {
    sidetune::emulation::check_vector(&from, 4, false);
    x = from.x, y = from.y;
  }
  __nv_bfloat162& operator=(const __nv_bfloat162& from) {
    sidetune::emulation::check_vector(&from, 4, false);
    sidetune::emulation::check_vector(this, 4, true);
    x = from.x, y = from.y;
    return *this;
  }
};

inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 x;
  x.bits_ = bits;
  return x;
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits_; }

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(__bfloat16_as_ushort(x)) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (x != x) return __ushort_as_bfloat16(0x7fff);
  const unsigned bits = __float_as_uint(x);
  return __ushort_as_bfloat16(static_cast<unsigned short>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16));
}
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return make_float2(__bfloat162float(v.x), __bfloat162float(v.y)); }
inline float __low2float(__nv_bfloat162 v) { return __bfloat162float(v.x); }
inline float __high2float(__nv_bfloat162 v) { return __bfloat162float(v.y); }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }
