/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface SliceKernels {
  sliceForward(
    args: {
      rows: readonly number[] | undefined;
      columns: readonly number[] | undefined;
      /** in [R, C] f32 */ x: Tensor;
      /** out [rowTo-rowFrom, columnTo-columnFrom] f32 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  sliceBackward(
    args: {
      rows: readonly number[] | undefined;
      columns: readonly number[] | undefined;
      /** in [rowTo-rowFrom, columnTo-columnFrom] f32 */ gradOut: Tensor;
      /** inOut [R, C] f32 */ gradX: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
}
