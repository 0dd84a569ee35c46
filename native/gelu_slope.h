// GELU's derivative as a byte: 0 and 1, which it is far from zero, are exact, and no value of it, from -0.12890 to 1.12890, is
// off by more than half a step, 0.0025 (and the 0.0001 that the CPU's derivative beside bf16 may be off before). A NaN is none
// any more; the layer's own result still is one.
#pragma once

namespace sidetune {

constexpr float kSlopeSteps = 202, kSlopeZero = 26;  // byte = slope · 202 + 26, to the nearest

}  // namespace sidetune
