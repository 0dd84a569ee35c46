// Functions of one number, as native/cpu/math-inl.h has them for vectors: the formulas and their error bounds are the same.
#pragma once

#include <cuda_runtime.h>

namespace sidetune::cuda {

// (1 − Φ(t)) e^{t²/2} for t ≥ 0, to 6e-9 up to 15: a rational function whose terms are all positive.
__device__ inline float upper_tail_ratio(float t) {
  float p = 4.1532000e-3f;
  p = fmaf(p, t, 4.0880944e-2f);
  p = fmaf(p, t, 1.8396858e-1f);
  p = fmaf(p, t, 4.3928268e-1f);
  p = fmaf(p, t, 0.5f);
  float q = 1.04104192e-2f;
  q = fmaf(q, t, 1.02479428e-1f);
  q = fmaf(q, t, 4.71407210e-1f);
  q = fmaf(q, t, 1.20554595e+0f);
  q = fmaf(q, t, 1.67645036e+0f);
  q = fmaf(q, t, 1.0f);
  return p / q;
}

// e^{−t²/2}; the rounding error of t², which exp would magnify in the tail, is made good. 0 past 13.1, where the tail is hardly a
// normal number.
__device__ inline float exp_minus_half_square(float t) {
  if (t > 13.1f) return 0.0f;
  const float square = t * t, error = fmaf(t, t, -square), e = expf(-0.5f * square);
  return fmaf(-0.5f * error, e, e);
}

// x Φ(x) = max(x, 0) − |x| (1 − Φ(|x|)); ±∞ give ∞ and 0, NaN stays NaN.
__device__ inline float gelu(float x) {
  const float t = fabsf(x), e = exp_minus_half_square(t);
  return (x < 0 ? 0.0f : x) - (e > 0 ? e * (upper_tail_ratio(t) * t) : 0.0f);
}

// Φ(x) + x φ(x). On the left it is e^{−t²/2} (ratio − t/√2π) with t = −x, on the right one minus the same.
__device__ inline float gelu_derivative(float x) {
  const float t = fabsf(x), e = exp_minus_half_square(t);
  const float left = e > 0 ? e * fmaf(-t, 0.398942280f, upper_tail_ratio(t)) : 0.0f;
  return x < 0 ? left : 1.0f - left;
}

// Both at once.
struct GeluAndDerivative {
  float value, derivative;
};
__device__ inline GeluAndDerivative gelu_and_derivative(float x) {
  const float t = fabsf(x), e = exp_minus_half_square(t), ratio = upper_tail_ratio(t);
  const float left = e > 0 ? e * fmaf(-t, 0.398942280f, ratio) : 0.0f;
  return {(x < 0 ? 0.0f : x) - (e > 0 ? e * (ratio * t) : 0.0f), x < 0 ? left : 1.0f - left};
}

// x σ(βx) for any x and β; beyond |βx| = 87 it is x or 0.
__device__ inline float swish(float x, float beta) {
  const float t = beta * x;
  if (t < -87.0f) return 0.0f;
  return x / (1.0f + expf(-fminf(t, 87.0f)));
}

// σ(βx) (1 + βx (1 − σ(βx))), where 1 − σ(t) = e⁻ᵗ σ(t).
__device__ inline float swish_slope(float x, float beta) {
  if (isnan(x)) return x;
  const float t = fminf(fmaxf(beta * x, -87.0f), 87.0f), e = expf(-t), s = 1.0f / (1.0f + e);
  return s * fmaf(t, e * s, 1.0f);
}

}  // namespace sidetune::cuda
