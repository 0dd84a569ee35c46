/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface SideInjectKernels {
  sideInjectForward(
    args: {
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [..., d] f32 */ h: Tensor;
      /** in [d, 1, K, K] f32 */ weight?: Tensor | undefined;
      /** out [..., d] like z */ out?: Tensor | undefined;
      beta?: number | undefined;
      grid?: readonly number[] | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  sideInjectBackward(
    args: {
      /** in [..., d] f32 bf16 */ gradOut: Tensor;
      /** in [..., d] f32 */ h: Tensor;
      /** in [d, 1, K, K] f32 */ weight?: Tensor | undefined;
      /** in [..., d] f32 */ residual?: Tensor | undefined;
      /** out [..., d] f32 */ gradH?: Tensor | undefined;
      /** inOut [d, 1, K, K] f32 */ gradWeight?: Tensor | undefined;
      beta?: number | undefined;
      grid?: readonly number[] | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradH: Tensor;
  };
  sideInjectLowRankForward(
    args: {
      /** in [..., d] f32 bf16 */ z: Tensor;
      /** in [..., r] f32 */ u: readonly Tensor[];
      /** in [r, d] f32 */ c: readonly Tensor[];
      /** in [d, 1, K, K] f32 */ weight?: Tensor | undefined;
      /** out [..., d] like z */ out?: Tensor | undefined;
      beta?: number | undefined;
      grid?: readonly number[] | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  sideInjectLowRankBackward(
    args: {
      /** in [..., d] f32 bf16 */ gradOut: Tensor;
      /** in [..., r] f32 */ u: readonly Tensor[];
      /** in [r, d] f32 */ c: readonly Tensor[];
      /** in [d, 1, K, K] f32 */ weight?: Tensor | undefined;
      /** out [..., d] f32 */ gradH?: Tensor | undefined;
      /** inOut [d, 1, K, K] f32 */ gradWeight?: Tensor | undefined;
      beta?: number | undefined;
      grid?: readonly number[] | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradH: Tensor;
  };
}
