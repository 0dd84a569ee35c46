/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface LinearKernels {
  linearForward(
    args: {
      /** in [..., I] f32 bf16 */ x: Tensor;
      /** in [O, I] f32 bf16 i8 */ weight: Tensor;
      /** in [O] f32 */ bias?: Tensor | undefined;
      /** in [..., O] like x */ residual?: Tensor | undefined;
      activation?: 'none' | 'gelu' | undefined;
      /** out [..., O] like x */ out?: Tensor | undefined;
      /** saved [..., O] like x */ preActivation?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    preActivation?: Tensor;
  };
  linearBackward(
    args: {
      /** in [..., O] f32 bf16 */ gradOut: Tensor;
      /** in [..., I] like gradOut */ x?: Tensor | undefined;
      /** in [O, I] f32 bf16 */ weight?: Tensor | undefined;
      /** in [..., O] like gradOut */ preActivation?: Tensor | undefined;
      /** in [..., I] like gradOut, u8 for bf16 */ xSlope?: Tensor | undefined;
      /** in [..., I] like gradOut */ residual?: Tensor | undefined;
      activation?: 'none' | 'gelu' | undefined;
      /** out [..., I] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [O, I] f32 */ gradWeight?: Tensor | undefined;
      /** inOut [O] f32 */ gradBias?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  linearPack(
    args: {
      /** in [O, I] f32 bf16 i8 */ weight: Tensor;
      /** out [O, I] f32 bf16 i8 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  linearAddForward(
    args: {
      column?: number | undefined;
      /** inOut [..., W] f32 bf16 */ y: Tensor;
      /** in [..., I] like y */ x: Tensor;
      /** in [O, I] f32 bf16 */ weight: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
  linearAddBackward(
    args: {
      column?: number | undefined;
      /** in [..., W] f32 bf16 */ gradOut: Tensor;
      /** in [..., I] like gradOut */ x?: Tensor | undefined;
      /** in [O, I] f32 bf16 */ weight?: Tensor | undefined;
      /** out [..., I] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [O, I] f32 */ gradWeight?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
}
