// How a frozen weight W [O, I] and rows of x are kept in 8 bits, and what their products mean.
//   W[o, i] ≈ scale[o] · w[o, i]                w from −127 to 127, scale[o] = max_i |W[o, i]| / 127
//   x[n, i] ≈ step[n] · (q[n, i] − zero[n])     q from 0 to 255 (int8_levels()); a row's range reaches to 0
//   (x Wᵀ)[n, o] ≈ step[n] · scale[o] · (Σ_i q w − zero[n] · sum[o])     sum[o] = Σ_i w[o, i]
// Sums are exact: 32 bits hold them up to I = 65,536. A row of x, or of W, with a number that is not finite gives NaN.
#pragma once

#include "gemm.h"

namespace sidetune::cpu {

// A packed weight in memory: panels, then scales and sums, each up to a whole number of the widest vectors.
struct Int8Weight {
  static constexpr int64_t kPad = 16;

  std::byte* panels;
  float* scales;
  int32_t* sums;

  Int8Weight(Cpu& cpu, const Tensor& weight)
      : panels(weight.as<std::byte>()),
        scales(reinterpret_cast<float*>(panels + panel_bytes(cpu, weight.dim(1), weight.dim(0), DType::i8))),
        sums(reinterpret_cast<int32_t*>(scales + padded(weight.dim(0)))) {}

  static int64_t padded(int64_t O) { return (O + kPad - 1) / kPad * kPad; }

  static int64_t bytes(Cpu& cpu, int64_t O, int64_t I) {
    return panel_bytes(cpu, I, O, DType::i8) + padded(O) * static_cast<int64_t>(sizeof(float) + sizeof(int32_t));
  }
};

// A row of x in 8 bits.
struct Int8Row {
  float step;
  int32_t zero;
};

}  // namespace sidetune::cpu
