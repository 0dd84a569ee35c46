// Dropout (Srivastava et al., JMLR 15, 2014), with what is kept scaled up:
//   out = x / (1 − rate) where a number is kept, else 0
// A number is dropped when its random word is below rate · 2³², an integer comparison: the mask is the same bits on every
// backend. The word is a function of (seed, stream, step, place in the tensor) and of nothing else (random_numbers.h,
// mask_block): number i has word i mod 4 of block i div 4. Backward is the same kernel with gradOut for x: it makes the mask
// again from the same seed, stream and step, and none is kept. `step` is read when the kernel runs, so that calls that are
// repeated without being made anew can be given another one. `stream` tells the dropouts of one model apart. Rate 0 gives x, bit
// for bit.
#pragma once

#include "fields.h"

namespace sidetune {

struct Dropout {
  Tensor x, step, out;
  float rate = 0;
  int64_t seed = 0, stream = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("x", x, "...", f32 | bf16);
    field.in("step", step, "1", i32);
    field.out("out", out, "...", like("x"));
    field.option("rate", rate, between(0, 1)).required();
    field.option("seed", seed, between(0, 9007199254740991.0)).required();
    field.option("stream", stream, between(0, 2147483647.0)).required();
  }
  void check(const char* kernel) const;  // something is kept
  double flops() const { return 1.0 * x.size(); }

  // Words below it are dropped.
  uint32_t threshold() const { return static_cast<uint32_t>(static_cast<double>(rate) * 4294967296.0); }
  float scale() const { return static_cast<float>(1.0 / (1.0 - static_cast<double>(rate))); }
};

}  // namespace sidetune
