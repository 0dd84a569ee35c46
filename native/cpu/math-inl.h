// SIMD building blocks, compiled once per target: loads and stores of f32 and bf16 with tails, exp, sigmoid, swish, GELU.
// Include inside foreach_target files only, after hwy/highway.h.
#if defined(SIDETUNE_CPU_MATH_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef SIDETUNE_CPU_MATH_INL_H
#undef SIDETUNE_CPU_MATH_INL_H
#else
#define SIDETUNE_CPU_MATH_INL_H
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace sidetune::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// All kernels compute in f32, whatever they read and write.
using F = hn::ScalableTag<float>;
using V = hn::Vec<F>;
using bf16_t = uint16_t;  // the upper half of an f32

HWY_INLINE size_t lanes() { return hn::Lanes(F()); }

HWY_INLINE V load(const float* p) { return hn::LoadU(F(), p); }
HWY_INLINE V load(const bf16_t* p) {
  const F f;
  const hn::RebindToUnsigned<F> u;
  const hn::Rebind<uint16_t, F> half;
  return hn::BitCast(f, hn::ShiftLeft<16>(hn::PromoteTo(u, hn::LoadU(half, p))));
}

HWY_INLINE V load(const uint8_t* p) {
  const hn::Rebind<int32_t, F> i32;
  return hn::ConvertTo(F(), hn::PromoteTo(i32, hn::LoadU(hn::Rebind<uint8_t, F>(), p)));
}

HWY_INLINE V load(const int8_t* p) {
  const hn::Rebind<int32_t, F> i32;
  return hn::ConvertTo(F(), hn::PromoteTo(i32, hn::LoadU(hn::Rebind<int8_t, F>(), p)));
}

HWY_INLINE void store(V v, float* p) { hn::StoreU(v, F(), p); }
// Rounds to nearest even; NaN stays NaN.
HWY_INLINE void store(V v, bf16_t* p) {
  const F f;
  const hn::RebindToUnsigned<F> u;
  const hn::Rebind<uint16_t, F> half;
  const auto bits = hn::BitCast(u, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(u, 0x7FFF)));
  const auto quiet = hn::Or(bits, hn::Set(u, 0x400000));
  const auto is_nan = hn::RebindMask(u, hn::IsNaN(v));
  const auto chosen = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
  hn::StoreU(hn::TruncateTo(half, chosen), half, p);
  (void)f;
}

// Both round to nearest even; for numbers that the integer can hold. Adding 1.5·2²³ rounds to an integer and leaves it in the low
// bits.
HWY_INLINE void store(V v, uint8_t* p) {
  const hn::RebindToUnsigned<F> u;
  const hn::Rebind<uint8_t, F> u8;
  hn::StoreU(hn::TruncateTo(u8, hn::BitCast(u, hn::Add(v, hn::Set(F(), 12582912.0f)))), u8, p);
}
HWY_INLINE void store(V v, int8_t* p) { store(v, reinterpret_cast<uint8_t*>(p)); }

// The first `count` < lanes() numbers; the other lanes are zero, and their memory is not touched.
template <class T>
HWY_INLINE V load_tail(const T* p, size_t count) {
  HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  for (size_t i = 0; i < count; i++) buffer[i] = p[i];
  return load(buffer);
}
HWY_INLINE V load_tail(const float* p, size_t count) { return hn::MaskedLoad(hn::FirstN(F(), count), F(), p); }
template <class T>
HWY_INLINE void store_tail(V v, T* p, size_t count) {
  HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(float)];
  store(v, buffer);
  for (size_t i = 0; i < count; i++) p[i] = buffer[i];
}
HWY_INLINE void store_tail(V v, float* p, size_t count) { hn::BlendedStore(v, hn::FirstN(F(), count), F(), p); }

HWY_INLINE float to_float(float x) { return x; }
HWY_INLINE float to_float(bf16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

// Calls body(i, load, store) over a row of n numbers: full vectors first, then one tail. `at(p)` loads at the current place and
// `put(v, p)` stores there.
template <class Body>
HWY_INLINE void for_each_vector(size_t n, const Body& body) {
  const size_t step = lanes();
  size_t i = 0;
  for (; i + step <= n; i += step)
    body(
        i, [i](const auto* p) HWY_ATTR { return load(p + i); }, [i](V v, auto* p) HWY_ATTR { store(v, p + i); });
  if (i < n) {
    const size_t left = n - i;
    body(
        i, [i, left](const auto* p) HWY_ATTR { return load_tail(p + i, left); },
        [i, left](V v, auto* p) HWY_ATTR { store_tail(v, p + i, left); });
  }
}

// Clears the lanes from n on, where a tail would add something other than zero to a sum.
HWY_INLINE V first(V v, size_t i, size_t n) { return n - i >= lanes() ? v : hn::IfThenElseZero(hn::FirstN(F(), n - i), v); }

// to += from, for rows of partial sums.
HWY_INLINE void add_row(const float* from, size_t d, float* to) {
  for_each_vector(d, [&](size_t, auto at, auto put) HWY_ATTR { put(hn::Add(at(to), at(from)), to); });
}

HWY_INLINE float sum(V v) { return hn::GetLane(hn::SumOfLanes(F(), v)); }
HWY_INLINE float max(V v) { return hn::GetLane(hn::MaxOfLanes(F(), v)); }

// max(x, low) and min(x, high) in which NaN stays NaN on every target; hn::Max and hn::Min do not promise that.
HWY_INLINE V at_least(V x, float low) { return hn::IfThenElse(hn::Lt(x, hn::Set(F(), low)), hn::Set(F(), low), x); }
HWY_INLINE V at_most(V x, float high) { return hn::IfThenElse(hn::Gt(x, hn::Set(F(), high)), hn::Set(F(), high), x); }

// e^r for r = x − n ln2, which lies within ±ln2/2.
HWY_INLINE V exp_of_rest(V x, V n) {
  const F f;
  V r = hn::NegMulAdd(n, hn::Set(f, 0.693145751953125f), x);
  r = hn::NegMulAdd(n, hn::Set(f, 1.428606765330187e-06f), r);
  V p = hn::Set(f, 1.3814598788e-3f);
  p = hn::MulAdd(p, r, hn::Set(f, 8.3687165752e-3f));
  p = hn::MulAdd(p, r, hn::Set(f, 4.1668388993e-2f));
  p = hn::MulAdd(p, r, hn::Set(f, 1.6666521132e-1f));
  p = hn::MulAdd(p, r, hn::Set(f, 0.49999994f));
  return hn::MulAdd(hn::Mul(r, r), p, hn::Add(r, hn::Set(f, 1.0f)));
}

// eˣ for any x: 0 below −104, infinity above 88.8, relative error below 2e-7. 2ⁿ · e^r with |r| ≤ ln2/2, e^r by a polynomial of
// degree 6.
HWY_INLINE V exp(V x) {
  const F f;
  const hn::RebindToSigned<F> i32;
  x = at_most(at_least(x, -104.0f), 89.0f);
  const V n = hn::Round(hn::Mul(x, hn::Set(f, 1.44269504088896f)));
  const V p = exp_of_rest(x, n);
  // 2ⁿ in two halves, so that denormal results and results near the top are reached without overflow in between.
  const auto e = hn::ConvertTo(i32, n);
  const auto half = hn::ShiftRight<1>(e);
  const auto power = [&](decltype(e) k) HWY_ATTR { return hn::BitCast(f, hn::ShiftLeft<23>(hn::Add(k, hn::Set(i32, 127)))); };
  return hn::Mul(hn::Mul(p, power(half)), power(hn::Sub(e, half)));
}

// 2ˣ for x up to 127, relative error below 2e-7; 0 from −127 down; NaN stays NaN. About half the work of exp: for softmax, whose
// scores come scaled by log₂e and are not above zero.
HWY_INLINE V exp2(V x) {
  const F f;
  const hn::RebindToUnsigned<F> u32;
  const V low = hn::Set(f, -127.0f);
  // Max keeps a NaN in its second place, but not on the scalar target.
  x = HWY_TARGET == HWY_SCALAR ? hn::IfThenElse(hn::Lt(x, low), low, x) : hn::Max(low, x);
  // At 1.5 · 2²³ a float's last bit is worth 1: the sum is rounded to n + 127 in its low bits, which shifted into the exponent
  // are 2ⁿ.
  const V magic = hn::Set(f, 12582912.0f + 127.0f);
  const V n = hn::Add(x, magic);
  const V r = hn::Sub(x, hn::Sub(n, magic));
  V p = hn::Set(f, 1.326472731e-3f);
  p = hn::MulAdd(p, r, hn::Set(f, 9.671512991e-3f));
  p = hn::MulAdd(p, r, hn::Set(f, 5.550733581e-2f));
  p = hn::MulAdd(p, r, hn::Set(f, 0.2402224243f));
  p = hn::MulAdd(p, r, hn::Set(f, 0.6931470037f));
  p = hn::MulAdd(p, r, hn::Set(f, 1.0f));
  return hn::Mul(p, hn::BitCast(f, hn::ShiftLeft<23>(hn::BitCast(u32, n))));
}

// 1/(1 + e⁻ˣ), without overflow and without losing small results: σ(x) = e^{min(x,0)} / (1 + e^{−|x|}).
HWY_INLINE V sigmoid(V x) {
  const F f;
  const V one = hn::Set(f, 1.0f);
  const V e = exp(hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Ge(x, hn::Zero(f)), one, e), hn::Add(one, e));
}

// eˣ for −87 ≤ x ≤ 88, where it is a normal number: half the work of exp. Adding 1.5·2²³ rounds to an integer and leaves it in
// the low bits.
HWY_INLINE V exp_of_moderate(V x) {
  const F f;
  const hn::RebindToUnsigned<F> u;
  const V round = hn::Set(f, 12582912.0f);
  const V shifted = hn::MulAdd(x, hn::Set(f, 1.44269504088896f), round);
  const V n = hn::Sub(shifted, round);
  const V p = exp_of_rest(x, n);
  return hn::BitCast(f, hn::Add(hn::BitCast(u, p), hn::ShiftLeft<23>(hn::BitCast(u, shifted))));
}

// Upper tail of the normal distribution, 1 − Φ(t) = e^{−t²/2} · upper_tail_ratio(t), for t ≥ 0: the ratio falls smoothly from
// 1/2, as 1/t, and a rational function gives it to 6e-9 up to 15 (fitted in the relative maximum norm; all terms are positive, so
// nothing cancels). Past 13.1, where e^{−t²/2} is hardly a normal number any more, the tail counts as 0.
HWY_INLINE V upper_tail_ratio(V t) {
  const F f;
  V p = hn::Set(f, 4.1532000e-3f);
  p = hn::MulAdd(p, t, hn::Set(f, 4.0880944e-2f));
  p = hn::MulAdd(p, t, hn::Set(f, 1.8396858e-1f));
  p = hn::MulAdd(p, t, hn::Set(f, 4.3928268e-1f));
  p = hn::MulAdd(p, t, hn::Set(f, 0.5f));
  V q = hn::Set(f, 1.04104192e-2f);
  q = hn::MulAdd(q, t, hn::Set(f, 1.02479428e-1f));
  q = hn::MulAdd(q, t, hn::Set(f, 4.71407210e-1f));
  q = hn::MulAdd(q, t, hn::Set(f, 1.20554595e+0f));
  q = hn::MulAdd(q, t, hn::Set(f, 1.67645036e+0f));
  q = hn::MulAdd(q, t, hn::Set(f, 1.0f));
  return hn::Div(p, q);
}
// e^{−t²/2} for t ≤ 13.1; the rounding error of t², which exp would magnify in the tail, is made good. Beyond, any normal number:
// numbers below the normal ones cost a processor up to a hundred times the time of others.
HWY_INLINE V exp_minus_half_square(V t) {
  const V minus_half = hn::Set(F(), -0.5f), square = hn::Mul(t, t), error = hn::MulSub(t, t, square);
  const V e = exp_of_moderate(hn::Mul(hn::Min(square, hn::Set(F(), 171.6f)), minus_half));
  return hn::MulAdd(hn::Mul(error, minus_half), e, e);
}
HWY_INLINE V zero_past_tail(V t, V v) { return hn::IfThenZeroElse(hn::Gt(t, hn::Set(F(), 13.1f)), v); }

// Φ(x), the normal distribution function, to 2e-7; on the left the relative error stays below 1e-6 (5e-6 without fused
// multiply-add).
HWY_INLINE V normal_cdf(V x) {
  const F f;
  const V t = hn::Abs(x), tail = zero_past_tail(t, hn::Mul(exp_minus_half_square(t), upper_tail_ratio(t)));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(f)), tail, hn::Sub(hn::Set(f, 1.0f), tail));
}
// GELU, x Φ(x) = max(x, 0) − |x| (1 − Φ(|x|)); ±∞ give ∞ and 0.
HWY_INLINE V gelu(V x) {
  const V t = hn::Abs(x), product = hn::Mul(exp_minus_half_square(t), hn::Mul(upper_tail_ratio(t), t));
  return hn::Sub(hn::Max(x, hn::Zero(F())), zero_past_tail(t, product));
}
// Its derivative, Φ(x) + x φ(x). On the left it is e^{−t²/2} (ratio − t/√2π) with t = −x, on the right one minus the same.
HWY_INLINE V gelu_derivative(V x) {
  const F f;
  const V t = hn::Abs(x), inner = hn::NegMulAdd(t, hn::Set(f, 0.398942280f), upper_tail_ratio(t));
  const V left = zero_past_tail(t, hn::Mul(exp_minus_half_square(t), inner));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(f)), left, hn::Sub(hn::Set(f, 1.0f), left));
}

// Both at once.
struct GeluAndDerivative {
  V value, derivative;
};
HWY_INLINE GeluAndDerivative gelu_and_derivative(V x) {
  const F f;
  const V t = hn::Abs(x), e = exp_minus_half_square(t), ratio = upper_tail_ratio(t);
  const V product = zero_past_tail(t, hn::Mul(e, hn::Mul(ratio, t)));
  const V left = zero_past_tail(t, hn::Mul(e, hn::NegMulAdd(t, hn::Set(f, 0.398942280f), ratio)));
  return {hn::Sub(hn::Max(x, hn::Zero(f)), product),
          hn::IfThenElse(hn::Lt(x, hn::Zero(f)), left, hn::Sub(hn::Set(f, 1.0f), left))};
}

// The same where they are rounded to bf16 anyhow, the derivative to a byte: with t = min(|x|, 4.8),
//   t (1 − Φ(t)) = t (4.8 − t)² p(t)  to 1.1e-5      (1 − Φ(t)) − t φ(t) = (4.8 − t) q(t)  to 1e-4,
// p and q fitted in the maximum norm. Nothing is divided, no power taken: a quarter of the work. Both are exact from ±4.8
// outwards.
HWY_INLINE V tail_of_half(V x) {
  const V most = hn::Set(F(), 4.8f), t = hn::Abs(x);
  // Min keeps a NaN in its second place, but not on the scalar target.
  return HWY_TARGET == HWY_SCALAR ? at_most(t, 4.8f) : hn::Min(most, t);
}
HWY_INLINE V gelu_tail_for_half(V t, V rest) {
  const F f;
  V p = hn::Set(f, 1.87264369e-6f);
  p = hn::MulAdd(p, t, hn::Set(f, -4.10060920e-5f));
  p = hn::MulAdd(p, t, hn::Set(f, 3.58245490e-4f));
  p = hn::MulAdd(p, t, hn::Set(f, -1.53216741e-3f));
  p = hn::MulAdd(p, t, hn::Set(f, 2.93437983e-3f));
  p = hn::MulAdd(p, t, hn::Set(f, -5.18034880e-4f));
  p = hn::MulAdd(p, t, hn::Set(f, -3.44053198e-3f));
  p = hn::MulAdd(p, t, hn::Set(f, -8.49500033e-3f));
  p = hn::MulAdd(p, t, hn::Set(f, 2.17188622e-2f));
  return hn::Mul(hn::Mul(rest, t), hn::Mul(rest, p));
}
HWY_INLINE V gelu_for_half(V x) {
  const V t = tail_of_half(x), rest = hn::Sub(hn::Set(F(), 4.8f), t);
  return hn::Sub(hn::Max(x, hn::Zero(F())), gelu_tail_for_half(t, rest));
}
HWY_INLINE GeluAndDerivative gelu_and_derivative_for_half(V x) {
  const F f;
  const V t = tail_of_half(x), rest = hn::Sub(hn::Set(f, 4.8f), t), zero = hn::Zero(f);
  V q = hn::Set(f, -1.64917761e-5f);
  q = hn::MulAdd(q, t, hn::Set(f, 4.08863676e-4f));
  q = hn::MulAdd(q, t, hn::Set(f, -4.11400297e-3f));
  q = hn::MulAdd(q, t, hn::Set(f, 2.12018952e-2f));
  q = hn::MulAdd(q, t, hn::Set(f, -5.64674059e-2f));
  q = hn::MulAdd(q, t, hn::Set(f, 6.05825971e-2f));
  q = hn::MulAdd(q, t, hn::Set(f, 1.90530657e-2f));
  q = hn::MulAdd(q, t, hn::Set(f, -2.12384562e-2f));
  q = hn::MulAdd(q, t, hn::Set(f, -1.45518866e-1f));
  q = hn::MulAdd(q, t, hn::Set(f, 1.04184756e-1f));
  const V left = hn::Mul(rest, q);
  return {hn::Sub(hn::Max(x, zero), gelu_tail_for_half(t, rest)),
          hn::IfThenElse(hn::Lt(x, zero), left, hn::Sub(hn::Set(f, 1.0f), left))};
}

HWY_INLINE V clamp(V x, float limit) { return hn::Max(hn::Min(x, hn::Set(F(), limit)), hn::Set(F(), -limit)); }

// x σ(βx) = x / (1 + e^{−βx}), for any x and β. Beyond |βx| = 87 it is x or 0.
HWY_INLINE V swish(V x, V beta) {
  const F f;
  const V t = hn::Mul(beta, x);
  const V e = exp_of_moderate(hn::Neg(clamp(t, 87.0f)));
  return hn::IfThenZeroElse(hn::Lt(t, hn::Set(f, -87.0f)), hn::Div(x, hn::Add(e, hn::Set(f, 1.0f))));
}

// Its derivative σ(βx) (1 + βx (1 − σ(βx))), where 1 − σ(t) = e⁻ᵗ σ(t).
HWY_INLINE V swish_slope(V x, V beta) {
  const V one = hn::Set(F(), 1.0f), t = clamp(hn::Mul(beta, x), 87.0f);
  const V e = exp_of_moderate(hn::Neg(t));
  const V s = hn::Div(one, hn::Add(e, one));
  const V slope = hn::Mul(s, hn::MulAdd(t, hn::Mul(e, s), one));
  return hn::IfThenElse(hn::IsNaN(x), x, slope);  // the clamp would hide it
}

}  // namespace sidetune::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
