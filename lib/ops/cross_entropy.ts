import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

export interface CrossEntropyOptions {
  /** Share of the target that is spread evenly over all classes, from 0 to 1. Default 0. */
  labelSmoothing?: number;
}

/**
 * Softmax cross-entropy with label smoothing s, averaged over the batch:
 * `loss = 1/B Σ_b (lse_b − (1 − s) logits_{b,label_b} − s/C Σ_c logits_{b,c})`, `lse_b = log Σ_c exp logits_{b,c}`.
 * @param logits - [B, C], f32
 * @param labels - [B], i32, from 0 to C − 1
 * @returns `loss` [1], f32, and `correct` [1], i32: the number of images whose largest logit (the first of equal ones) is the label's
 * Keeps for backward: logits, labels, and one f32 number for each image.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError; a label that is no class is found late (SIDETUNE_LATE)
 * @example const { loss, correct } = ops.softmaxCrossEntropy(logits, labels, { labelSmoothing: 0.1 });
 */
export function softmaxCrossEntropy(
  logits: Tensor,
  labels: Tensor,
  { labelSmoothing = 0 }: CrossEntropyOptions = {},
): { loss: Tensor; correct: Tensor } {
  const inputs = { logits };
  const { loss, correct, lse } = kernels.softmaxCrossEntropyForward(
    { logits, labels, labelSmoothing },
    { save: needs(inputs) !== null },
  );
  record('softmaxCrossEntropy', inputs, loss, {
    saved: { logits, labels },
    state: { lse },
    backward: ({ gradOut, saved }) => {
      const { gradLogits } = kernels.softmaxCrossEntropyBackward(
        { gradLoss: gradOut, logits: saved.logits!, labels: saved.labels!, lse: saved.lse!, labelSmoothing },
        { kind: 'gradients' },
      );
      return { logits: gradLogits };
    },
  });
  return { loss, correct };
}
