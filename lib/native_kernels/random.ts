/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface RandomKernels {
  randomUniform(
    args: {
      /** out [...] f32 bf16 */ out?: Tensor | undefined;
      low?: number | undefined;
      high?: number | undefined;
      seed: number | undefined;
      offset?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  randomNormal(
    args: {
      /** out [...] f32 bf16 */ out?: Tensor | undefined;
      mean?: number | undefined;
      deviation?: number | undefined;
      cut?: number | undefined;
      seed: number | undefined;
      offset?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  randomKeep(
    args: {
      /** out [B] f32 */ out?: Tensor | undefined;
      keep: number | undefined;
      seed: number | undefined;
      offset?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
}
