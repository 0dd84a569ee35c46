/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface AdamwKernels {
  adamwUpdate(
    args: {
      /** inOut [...] f32 */ parameters: readonly Tensor[];
      /** inOut [...] f32 */ firstMoments: readonly Tensor[];
      /** inOut [...] f32 */ secondMoments: readonly Tensor[];
      /** in [...] f32 */ gradients: readonly Tensor[];
      lr: number | undefined;
      beta1?: number | undefined;
      beta2?: number | undefined;
      eps?: number | undefined;
      weightDecay?: number | undefined;
      step: number | undefined;
    },
    flags?: CallFlags,
  ): {

  };
}
