/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface AttentionKernels {
  attentionForward(
    args: {
      /** in [B, N, C] f32 bf16 */ qkv: Tensor;
      /** out [B, N, C/3] like qkv */ out?: Tensor | undefined;
      /** saved [B, H, N] f32 */ lse?: Tensor | undefined;
      heads: number | undefined;
      scale?: number | undefined;
      algorithm?: 'tiled' | 'batched' | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
    lse?: Tensor;
  };
  attentionBackward(
    args: {
      /** in [B, N, d] f32 bf16 */ gradOut: Tensor;
      /** in [B, N, 3*d] like gradOut */ qkv: Tensor;
      /** in [B, H, N] f32 */ lse: Tensor;
      /** out [B, N, 3*d] like gradOut */ gradQkv?: Tensor | undefined;
      heads: number | undefined;
      scale?: number | undefined;
      algorithm?: 'tiled' | 'batched' | undefined;
    },
    flags?: CallFlags,
  ): {
    gradQkv: Tensor;
  };
  classAttentionForward(
    args: {
      /** in [B, N, I] f32 bf16 */ x: Tensor;
      /** in [C, I] f32 bf16 */ weight: Tensor;
      /** in [C] f32 */ bias?: Tensor | undefined;
      /** out [B, C/3] like x */ out?: Tensor | undefined;
      heads: number | undefined;
      scale?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
}
