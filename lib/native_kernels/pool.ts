/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface PoolKernels {
  poolForward(
    args: {
      /** in [B, N, d] f32 bf16 */ x: Tensor;
      /** out [B, d] f32 bf16 */ out?: Tensor | undefined;
      mode?: 'first' | 'mean' | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  poolBackward(
    args: {
      /** in [B, d] f32 bf16 */ gradOut: Tensor;
      /** out [B, N, d] f32 bf16 */ gradX?: Tensor | undefined;
      mode?: 'first' | 'mean' | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
}
