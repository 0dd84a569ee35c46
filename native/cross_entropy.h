// Softmax cross-entropy with label smoothing s over C classes, averaged over B images:
//   lse_b = log Σ_c exp logits_{b,c}
//   loss  = 1/B Σ_b (lse_b − (1 − s) logits_{b,label_b} − s/C Σ_c logits_{b,c})
// Backward; softmax is rebuilt from the logits and lse:
//   gradLogits = gradLoss/B (exp(logits − lse) − (1 − s) onehot(label) − s/C)
// `correct` counts the images whose largest logit, the first one where several are equal, is the label's. Everything is f32; the
// order of every sum is given by B and C alone, so the result does not depend on the number of threads. Labels are data: one
// outside 0 … C − 1 is found when the kernel runs, and the call fails late with its row and value.
#pragma once

#include "fields.h"

namespace sidetune {

// What a call fails with whose label in this row, the first such one, is no class.
inline std::string label_out_of_range(int64_t label, int64_t row, int64_t classes) {
  return "'labels' holds " + std::to_string(label) + " in row " + std::to_string(row) + ", expected 0 to " +
         std::to_string(classes - 1);
}

struct SoftmaxCrossEntropyForward {
  Tensor logits, labels, loss, correct, lse;
  float label_smoothing = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("logits", logits, "B C", f32);
    field.in("labels", labels, "B", i32);
    field.out("loss", loss, "1", f32);
    field.out("correct", correct, "1", i32);
    field.saved("lse", lse, "B", f32);
    field.option("label_smoothing", label_smoothing, between(0, 1));
  }
  double flops() const { return 20.0 * logits.size(); }
};

struct SoftmaxCrossEntropyBackward {
  Tensor grad_loss, logits, labels, lse, grad_logits;
  float label_smoothing = 0;

  template <class Fields>
  void fields(Fields& field) {
    field.in("grad_loss", grad_loss, "1", f32);
    field.in("logits", logits, "B C", f32);
    field.in("labels", labels, "B", i32);
    field.in("lse", lse, "B", f32);
    field.out("grad_logits", grad_logits, "B C", f32).optional();
    field.option("label_smoothing", label_smoothing, between(0, 1));
  }
  double flops() const { return 20.0 * logits.size(); }
};

}  // namespace sidetune
