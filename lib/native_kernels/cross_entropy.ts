/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface CrossEntropyKernels {
  softmaxCrossEntropyForward(
    args: {
      /** in [B, C] f32 */ logits: Tensor;
      /** in [B] i32 */ labels: Tensor;
      /** out [1] f32 */ loss?: Tensor | undefined;
      /** out [1] i32 */ correct?: Tensor | undefined;
      /** saved [B] f32 */ lse?: Tensor | undefined;
      labelSmoothing?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    loss: Tensor;
    correct: Tensor;
    lse?: Tensor;
  };
  softmaxCrossEntropyBackward(
    args: {
      /** in [1] f32 */ gradLoss: Tensor;
      /** in [B, C] f32 */ logits: Tensor;
      /** in [B] i32 */ labels: Tensor;
      /** in [B] f32 */ lse: Tensor;
      /** out [B, C] f32 */ gradLogits?: Tensor | undefined;
      labelSmoothing?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradLogits: Tensor;
  };
}
