/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface DropoutKernels {
  dropout(
    args: {
      /** in [...] f32 bf16 */ x: Tensor;
      /** in [1] i32 */ step: Tensor;
      /** out [...] like x */ out?: Tensor | undefined;
      rate: number | undefined;
      seed: number | undefined;
      stream: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
}
