/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface LayerNormKernels {
  layerNormForward(
    args: {
      /** in [..., d] f32 bf16 */ x: Tensor;
      /** in [d] f32 */ weight: Tensor;
      /** in [d] f32 */ bias: Tensor;
      /** out [..., d] like x */ out?: Tensor | undefined;
      /** saved [...] f32 */ mean?: Tensor | undefined;
      /** saved [...] f32 */ rstd?: Tensor | undefined;
      /** saved [..., d] u8 */ xhat?: Tensor | undefined;
      /** saved [...] f32 */ step?: Tensor | undefined;
      eps?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    mean?: Tensor;
    rstd?: Tensor;
    xhat?: Tensor;
    step?: Tensor;
  };
  layerNormProjectForward(
    args: {
      /** in [..., d] f32 bf16 */ x: Tensor;
      /** in [d] f32 */ weight: Tensor;
      /** in [d] f32 */ bias: Tensor;
      /** in [d, r] f32 */ a: Tensor;
      /** out [..., d] like x */ out?: Tensor | undefined;
      /** out [..., r] f32 */ u?: Tensor | undefined;
      /** saved [...] f32 */ mean?: Tensor | undefined;
      /** saved [...] f32 */ rstd?: Tensor | undefined;
      eps?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    u: Tensor;
    mean?: Tensor;
    rstd?: Tensor;
  };
  layerNormBackward(
    args: {
      /** in [..., d] f32 bf16 */ gradOut: Tensor;
      /** in [..., d] like gradOut */ x?: Tensor | undefined;
      /** in [d] f32 */ weight: Tensor;
      /** in [...] f32 */ mean?: Tensor | undefined;
      /** in [...] f32 */ rstd: Tensor;
      /** in [..., d] u8 */ xhat?: Tensor | undefined;
      /** in [...] f32 */ step?: Tensor | undefined;
      /** in [..., d] like gradOut */ residual?: Tensor | undefined;
      /** out [..., d] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [d] f32 */ gradWeight?: Tensor | undefined;
      /** inOut [d] f32 */ gradBias?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
}
