/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface ScaleShiftKernels {
  scaleShiftForward(
    args: {
      /** in [..., d] f32 bf16 */ x: Tensor;
      /** in [d] f32 */ scale: Tensor;
      /** in [d] f32 */ shift: Tensor;
      /** out [..., d] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  scaleShiftBackward(
    args: {
      /** in [..., d] f32 bf16 */ gradOut: Tensor;
      /** in [..., d] like gradOut */ x?: Tensor | undefined;
      /** in [d] f32 */ scale?: Tensor | undefined;
      /** out [..., d] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [d] f32 */ gradScale?: Tensor | undefined;
      /** inOut [d] f32 */ gradShift?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
}
