/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface FactorKernels {
  factorContractForward(
    args: {
      column?: number | undefined;
      count: number | undefined;
      layout?: 'rows' | 'interleaved_rows' | 'interleaved_columns' | undefined;
      /** in [r, r, r] f32 */ core: Tensor;
      /** in [r, T] f32 */ factors: Tensor;
      /** out [n*r, r] f32 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  factorContractBackward(
    args: {
      column?: number | undefined;
      count: number | undefined;
      layout?: 'rows' | 'interleaved_rows' | 'interleaved_columns' | undefined;
      /** in [r, r, r] f32 */ core?: Tensor | undefined;
      /** in [r, T] f32 */ factors?: Tensor | undefined;
      /** inOut [r, r, r] f32 */ gradCore?: Tensor | undefined;
      /** inOut [r, T] f32 */ gradFactors?: Tensor | undefined;
      /** in [n*r, r] f32 */ gradOut: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
}
