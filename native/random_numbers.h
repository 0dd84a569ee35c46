// Random numbers that are the same on every backend, bit for bit: integer arithmetic and single IEEE operations only, no library
// functions, nothing contracted into a fused multiply-add. Plain code for hosts and devices.
//   bits      Philox4x32-10 (Salmon et al., SC 2011): a block of four words is a function of (seed, counter), so any number of a
//   stream can be
//             made alone, by any thread
//   uniform   the upper 24 bits, k/2²⁴ in [0, 1)
//   normal    by inversion, so that one word gives one number: the top bit is the sign, the other 31 give p = (k + ½)/2³² in (0,
//   ½], the
//             probability beyond |z|; the farthest number is 6.3 deviations out. Bounding |z| by c only maps p into (Φ(−c), ½].
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SIDETUNE_ANYWHERE __host__ __device__ inline
#else
#define SIDETUNE_ANYWHERE inline
#endif

namespace sidetune::random_numbers {

// One rounding each: device compilers would contract a b + c.
#if defined(__CUDA_ARCH__)
SIDETUNE_ANYWHERE float mul(float a, float b) { return __fmul_rn(a, b); }
SIDETUNE_ANYWHERE float add(float a, float b) { return __fadd_rn(a, b); }
SIDETUNE_ANYWHERE float div(float a, float b) { return __fdiv_rn(a, b); }
#else
SIDETUNE_ANYWHERE float mul(float a, float b) { return a * b; }
SIDETUNE_ANYWHERE float add(float a, float b) { return a + b; }
SIDETUNE_ANYWHERE float div(float a, float b) { return a / b; }
#endif

struct Block {
  uint32_t word[4];
};

SIDETUNE_ANYWHERE Block philox(uint32_t key0, uint32_t key1, Block x) {
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t{0xD2511F53} * x.word[0], b = uint64_t{0xCD9E8D57} * x.word[2];
    x = {{static_cast<uint32_t>(b >> 32) ^ x.word[1] ^ key0, static_cast<uint32_t>(b),
          static_cast<uint32_t>(a >> 32) ^ x.word[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
  return x;
}

// Block `counter` of the stream of `seed`.
SIDETUNE_ANYWHERE Block block(uint64_t seed, uint64_t counter) {
  return philox(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                {{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}});
}

// Block `index` of a dropout's mask. The upper bit of a mask's stream tells its words from those of `block`.
SIDETUNE_ANYWHERE uint32_t mask_stream(uint32_t stream) { return stream | 0x80000000u; }
SIDETUNE_ANYWHERE Block mask_block(uint64_t seed, uint64_t index, uint32_t stream, uint32_t step) {
  return philox(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                {{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), mask_stream(stream), step}});
}

// In [0, 1).
SIDETUNE_ANYWHERE float unit(uint32_t bits) { return mul(static_cast<float>(static_cast<int32_t>(bits >> 8)), 0x1p-24f); }

SIDETUNE_ANYWHERE float uniform(uint32_t bits, float low, float high) {
  const float value = add(low, mul(add(high, -low), unit(bits)));
  return value < high ? value : high;  // the sum may round up
}

// scale with probability keep, else 0.
SIDETUNE_ANYWHERE float keep_or_drop(uint32_t bits, float keep, float scale) { return unit(bits) < keep ? scale : 0.0f; }

SIDETUNE_ANYWHERE float polynomial(float x, const float* c, int degree) {
  float sum = c[degree];
  for (int i = degree - 1; i >= 0; i--) sum = add(mul(sum, x), c[i]);
  return sum;
}

// log x for normal x > 0, to 2e-7 relative or absolute, whichever is larger: x = 2ᵉ (1 + f) with 1 + f in [√½, √2), log(1 + f) =
// f − f²/2 + f³ R(f).
SIDETUNE_ANYWHERE float log(float x) {
  constexpr float kR[] = {0.33334166f, -0.250016987f, 0.199548756f, -0.165644256f, 0.14977994f, -0.143790082f, 0.0867218426f};
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t shifted = bits - 0x3F3504F3u;  // √½
  const int32_t e = static_cast<int32_t>(shifted) >> 23;
  bits = (shifted & 0x7FFFFFu) + 0x3F3504F3u;
  float m;
  memcpy(&m, &bits, 4);
  const float f = add(m, -1.0f), square = mul(f, f);
  const float tail = add(mul(mul(square, f), polynomial(f, kR, 6)), mul(square, -0.5f));
  return add(mul(static_cast<float>(e), 0.693147181f), add(f, tail));
}

// z ≥ 0 with Φ(−z) = p, for p in [2⁻³³, ½], to 6e-7 (0.3 + z). As a function of y = −log p it is smooth, so a rational function
// gives it (fitted to 3e-7 in the maximum norm) without a square root.
SIDETUNE_ANYWHERE float upper_quantile(float p) {
  constexpr float kP[] = {-1.92290151f, -4.02692619f, 6.30719708f, 4.70782618f, 0.497395555f, 0.00752782336f};
  constexpr float kQ[] = {1.0f, 7.01162327f, 6.98990835f, 1.44561105f, 0.0579238607f, 0.000214053777f};
  const float y = -log(p);
  const float z = div(polynomial(y, kP, 5), polynomial(y, kQ, 5));
  return z > 0 ? z : 0;
}

// Within cut of mean; tail = Φ(−cut/deviation).
SIDETUNE_ANYWHERE float normal(uint32_t bits, float mean, float deviation, float cut, float tail) {
  const float k = static_cast<float>(static_cast<int32_t>(bits & 0x7FFFFFFFu));
  const float share = mul(add(k, 0.5f), 0x1p-31f);  // in (0, 1]
  const float distance = mul(deviation, upper_quantile(add(tail, mul(add(0.5f, -tail), share))));
  const float bounded = distance < cut ? distance : cut;  // only rounding goes beyond
  return add(mean, bits >> 31 ? -bounded : bounded);
}

// Φ(−c) for c ≥ 0, on the host, in double, again without the library: e^{−c²/2} by squaring e^{−c²/2¹³} twelve times, and the
// ratio of tail to density by its continued fraction (Laplace) or, near 0 where that is slow, by the series of Φ.
inline double normal_tail(double c) {
  if (!(c < 15)) return 0;
  const double y = c * c / 8192;
  double e = 1 - y * (1 - y / 2 * (1 - y / 3 * (1 - y / 4 * (1 - y / 5))));
  for (int i = 0; i < 12; i++) e *= e;
  const double density = 0.3989422804014327 * e;
  if (c > 3) {
    double fraction = c;
    for (int k = 60; k >= 1; k--) fraction = c + k / fraction;
    return density / fraction;
  }
  double term = c, sum = c;  // Φ(c) − ½ = φ(c) Σ c^{2k+1} / (1·3·…·(2k+1))
  for (int k = 1; k < 60; k++) term *= c * c / (2 * k + 1), sum += term;
  return 0.5 - density * sum;
}

}  // namespace sidetune::random_numbers
