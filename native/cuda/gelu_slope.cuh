// A GELU's slope beside f32, in f32, and beside bf16, in bytes (native/gelu_slope.h).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "../gelu_slope.h"

namespace sidetune::cuda {

template <class T>
using SlopeOf = std::conditional_t<std::is_same_v<T, float>, float, uint8_t>;

__device__ inline float to_slope(float slope, const float*) { return slope; }
__device__ inline float to_slope(float slope, const uint8_t*) { return rintf(fmaf(slope, kSlopeSteps, kSlopeZero)); }
__device__ inline float from_slope(float kept, const float*) { return kept; }
__device__ inline float from_slope(float kept, const uint8_t*) { return (kept - kSlopeZero) * (1 / kSlopeSteps); }

}  // namespace sidetune::cuda
