/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface ReluKernels {
  reluForward(
    args: {
      /** in [...] f32 bf16 */ x: Tensor;
      /** out [...] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  reluBackward(
    args: {
      /** in [...] f32 bf16 */ gradOut: Tensor;
      /** in [...] like gradOut */ out: Tensor;
      /** out [...] like gradOut */ gradX?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
}
