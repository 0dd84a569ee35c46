// A GELU's slope beside f32, in f32, and beside bf16, in bytes (native/gelu_slope.h). Include inside foreach_target files only.
#if defined(SIDETUNE_CPU_GELU_SLOPE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SIDETUNE_CPU_GELU_SLOPE_INL_H
#undef SIDETUNE_CPU_GELU_SLOPE_INL_H
#else
#define SIDETUNE_CPU_GELU_SLOPE_INL_H
#endif

#include <type_traits>

#include "../gelu_slope.h"
#include "math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

template <class T>
using SlopeOf = std::conditional_t<std::is_same_v<T, float>, float, uint8_t>;

HWY_INLINE V to_slope(V slope, const float*) { return slope; }
HWY_INLINE V to_slope(V slope, const uint8_t*) { return hn::MulAdd(slope, hn::Set(F(), kSlopeSteps), hn::Set(F(), kSlopeZero)); }
HWY_INLINE V from_slope(V kept, const float*) { return kept; }
HWY_INLINE V from_slope(V kept, const uint8_t*) {
  return hn::Mul(hn::Sub(kept, hn::Set(F(), kSlopeZero)), hn::Set(F(), 1 / kSlopeSteps));
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
