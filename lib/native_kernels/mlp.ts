/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface MlpKernels {
  mlpForward(
    args: {
      /** in [..., I] f32 bf16 */ x: Tensor;
      /** in [H, I] f32 bf16 i8 */ weight1: Tensor;
      /** in [H] f32 */ bias1?: Tensor | undefined;
      /** in [O, H] f32 bf16 i8 */ weight2: Tensor;
      /** in [O] f32 */ bias2?: Tensor | undefined;
      /** in [..., O] like x */ residual?: Tensor | undefined;
      /** out [..., O] like x */ out?: Tensor | undefined;
      /** saved [..., H] like x, u8 for bf16 */ slope?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    slope?: Tensor;
  };
  mlpBackward(
    args: {
      /** in [..., O] f32 bf16 */ gradOut: Tensor;
      /** in [..., H] like gradOut, u8 for bf16 */ slope: Tensor;
      /** in [H, I] f32 bf16 */ weight1: Tensor;
      /** in [O, H] f32 bf16 */ weight2: Tensor;
      /** out [..., I] like gradOut */ gradX?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
  mlpMeanForward(
    args: {
      /** in [B, N, I] f32 bf16 */ x: Tensor;
      /** in [H, I] f32 bf16 i8 */ weight1: Tensor;
      /** in [H] f32 */ bias1?: Tensor | undefined;
      /** in [O, H] f32 bf16 i8 */ weight2: Tensor;
      /** in [O] f32 */ bias2?: Tensor | undefined;
      /** out [B, O] like x */ out?: Tensor | undefined;
      /** saved [B, N, H] like x, u8 for bf16 */ slope?: Tensor | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    slope?: Tensor;
  };
  mlpMeanBackward(
    args: {
      /** in [B, O] f32 bf16 */ gradOut: Tensor;
      /** in [B, N, H] like gradOut, u8 for bf16 */ slope: Tensor;
      /** in [H, I] f32 bf16 */ weight1: Tensor;
      /** in [O, H] f32 bf16 */ weight2: Tensor;
      /** out [B, N, I] like gradOut */ gradX?: Tensor | undefined;
      prefixTokens?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
}
