/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface PatchEmbedKernels {
  patchEmbedForward(
    args: {
      /** in [B, C, H, W] f32 */ images: Tensor;
      /** in [D, C, P, P] f32 */ weight: Tensor;
      /** in [D] f32 */ bias?: Tensor | undefined;
      /** out [B, (H/P)*(W/P), D] f32 bf16 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  patchEmbedBackward(
    args: {
      /** in [B, C, H, W] f32 */ images: Tensor;
      /** in [D, C, P, P] f32 */ weight: Tensor;
      /** in [B, (H/P)*(W/P), D] f32 bf16 */ gradOut: Tensor;
      /** out [B, C, H, W] f32 */ gradImages?: Tensor | undefined;
      /** inOut [D, C, P, P] f32 */ gradWeight?: Tensor | undefined;
      /** inOut [D] f32 */ gradBias?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradImages: Tensor;
  };
  embedTokensForward(
    args: {
      prefixTokens?: number | undefined;
      /** in [B, n, D] f32 bf16 */ patches: Tensor;
      /** in [1, 1, D] f32 */ cls?: Tensor | undefined;
      /** in [1, n+T, D] f32 */ pos: Tensor;
      /** out [B, n+T, D] like patches */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  embedTokensBackward(
    args: {
      patches: number | undefined;
      prefixTokens?: number | undefined;
      /** in [B, n+T, D] f32 bf16 */ gradOut: Tensor;
      /** out [B, n, D] like gradOut */ gradPatches?: Tensor | undefined;
      /** inOut [1, 1, D] f32 */ gradCls?: Tensor | undefined;
      /** inOut [1, n+T, D] f32 */ gradPos?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradPatches: Tensor;
  };
}
