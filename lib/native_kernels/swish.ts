/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface SwishKernels {
  swishForward(
    args: {
      /** in [...] f32 bf16 */ x: Tensor;
      /** out [...] like x */ out?: Tensor | undefined;
      beta?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  swishBackward(
    args: {
      /** in [...] f32 bf16 */ gradOut: Tensor;
      /** in [...] like gradOut */ x: Tensor;
      /** out [...] like gradOut */ gradX?: Tensor | undefined;
      beta?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
}
