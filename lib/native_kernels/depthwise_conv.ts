/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface DepthwiseConvKernels {
  depthwiseConvForward(
    args: {
      grid: readonly number[] | undefined;
      prefixTokens?: number | undefined;
      /** in [B, P+GH*GW, D] f32 bf16 */ x: Tensor;
      /** in [D, 1, K, K] f32 */ weight: Tensor;
      /** out [B, P+GH*GW, D] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  depthwiseConvBackward(
    args: {
      grid: readonly number[] | undefined;
      prefixTokens?: number | undefined;
      /** in [B, P+GH*GW, D] f32 bf16 */ gradOut: Tensor;
      /** in [B, P+GH*GW, D] like gradOut */ x?: Tensor | undefined;
      /** in [D, 1, K, K] f32 */ weight: Tensor;
      /** out [B, P+GH*GW, D] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [D, 1, K, K] f32 */ gradWeight?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
}
