// Random numbers from a counter: number i of a tensor is a function of (seed, offset, i) and of nothing else, the same on every
// backend bit for bit (random_numbers.h). It is made from word i mod 4 of block offset + i div 4, so n numbers use up ⌈n/4⌉
// blocks: who draws again from the same seed moves `offset` on by that much. Seeds and offsets are whole numbers that JavaScript
// can hold, below 2⁵³.
//   uniform   out = low + (high − low) u, u in [0, 1) with 24 bits; never above high
//   normal    out = mean + deviation z, |out − mean| ≤ cut: truncated by inversion, not by clamping, so numbers do not pile up at
//   the cut.
//             timm's trunc_normal_ is mean 0, cut 2
//   keep      out = 1/keep with probability keep, else 0: the row scales of stochastic depth (elementwise.h, residual add)
#pragma once

#include "fields.h"

namespace sidetune {

constexpr Range kCounterRange = between(0, 9007199254740991.0);

struct RandomUniform {
  Tensor out;
  float low = 0, high = 1;
  int64_t seed = 0, offset = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.out("out", out, "...", f32 | bf16);
    field.option("low", low, finite());
    field.option("high", high, finite());
    field.option("seed", seed, kCounterRange).required();
    field.option("offset", offset, kCounterRange);
  }
  void check(const char* kernel) const;  // high is not below low
  double flops() const { return 2.0 * out.size(); }
};

struct RandomNormal {
  Tensor out;
  float mean = 0, deviation = 1;
  float cut = std::numeric_limits<float>::max();
  int64_t seed = 0, offset = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.out("out", out, "...", f32 | bf16);
    field.option("mean", mean, finite());
    field.option("deviation", deviation, at_least(0));
    field.option("cut", cut, positive());
    field.option("seed", seed, kCounterRange).required();
    field.option("offset", offset, kCounterRange);
  }
  double flops() const { return 50.0 * out.size(); }
};

struct RandomKeep {
  Tensor out;
  float keep = 1;
  int64_t seed = 0, offset = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.out("out", out, "B", f32);
    field.option("keep", keep, Range{0, 1, true}).required();
    field.option("seed", seed, kCounterRange).required();
    field.option("offset", offset, kCounterRange);
  }
  double flops() const { return 1.0 * out.size(); }
};

}  // namespace sidetune
