/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface LowRankKernels {
  lowRankAccumulateForward(
    args: {
      /** inOut [..., d] f32 */ h: Tensor;
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** in [r, d] f32 */ c: Tensor;
      /** saved [..., r] f32 */ u?: Tensor | undefined;
      initialize?: boolean | undefined;
    },
    flags?: CallFlags,
  ): {
    u?: Tensor;
  };
  lowRankAccumulateBackward(
    args: {
      /** in [..., d] f32 */ gradH: Tensor;
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** in [r, d] f32 */ c: Tensor;
      /** in [..., r] f32 */ u: Tensor;
      /** in [..., d] like z */ residual?: Tensor | undefined;
      /** out [..., d] like z */ gradZ?: Tensor | undefined;
      /** inOut [d, r] f32 */ gradA?: Tensor | undefined;
      /** inOut [r, d] f32 */ gradC?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradZ: Tensor;
  };
  lowRankUndo(
    args: {
      /** inOut [..., d] f32 */ h: Tensor;
      /** in [..., r] f32 */ u: Tensor;
      /** in [r, d] f32 */ c: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
  lowRankProjectForward(
    args: {
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** out [..., r] f32 */ u?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    u: Tensor;
  };
  lowRankProjectBackward(
    args: {
      /** in [..., r] f32 */ gradU: Tensor;
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** in [..., d] like z */ residual?: Tensor | undefined;
      /** out [..., d] like z */ gradZ?: Tensor | undefined;
      /** inOut [d, r] f32 */ gradA?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradZ: Tensor;
  };
  lowRankCombineForward(
    args: {
      /** inOut [..., d] f32 */ h: Tensor;
      /** in [..., r] f32 */ u: readonly Tensor[];
      /** in [r, d] f32 */ c: readonly Tensor[];
    },
    flags?: CallFlags,
  ): {

  };
  lowRankCombineBackward(
    args: {
      /** in [..., d] f32 */ gradH: Tensor;
      /** in [..., r] f32 */ u: readonly Tensor[];
      /** in [r, d] f32 */ c: readonly Tensor[];
      /** inOut [..., r] f32 */ gradU?: readonly Tensor[] | undefined;
      /** inOut [r, d] f32 */ gradC?: readonly Tensor[] | undefined;
    },
    flags?: CallFlags,
  ): {

  };
}
