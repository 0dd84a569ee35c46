/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface PromptKernels {
  promptForward(
    args: {
      at: number | undefined;
      replaced?: number | undefined;
      /** in [B, N, d] f32 bf16 */ x: Tensor;
      /** in [l, d] f32 */ prompt: Tensor;
      /** out [B, N+l-R, d] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  promptBackward(
    args: {
      prompts: number | undefined;
      at: number | undefined;
      replaced?: number | undefined;
      /** in [B, M, d] f32 bf16 */ gradOut: Tensor;
      /** out [B, M+R-l, d] like gradOut */ gradX?: Tensor | undefined;
      /** inOut [l, d] f32 */ gradPrompt?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradX: Tensor;
  };
}
