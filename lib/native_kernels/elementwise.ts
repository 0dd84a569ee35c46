/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface ElementwiseKernels {
  addForward(
    args: {
      /** in [...] f32 bf16 */ a: Tensor;
      /** in [...] like a */ b: Tensor;
      /** out [...] like a */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  addInto(
    args: {
      /** inOut [...] f32 bf16 */ target: Tensor;
      /** in [...] like target */ x: Tensor;
    },
    flags?: CallFlags,
  ): {

  };
  scale(
    args: {
      /** in [...] f32 bf16 */ x: Tensor;
      /** out [...] like x */ out?: Tensor | undefined;
      factor: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  cast(
    args: {
      /** in [...] f32 bf16 u8 */ x: Tensor;
      /** out [...] f32 bf16 */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  fill(
    args: {
      /** out [...] f32 bf16 */ out?: Tensor | undefined;
      value: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  residualAddForward(
    args: {
      /** in [B, N, d] f32 bf16 */ x: Tensor;
      /** in [B, N, d] like x */ branch: Tensor;
      /** in [B] f32 */ rowScale: Tensor;
      /** out [B, N, d] like x */ out?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  residualAddBackward(
    args: {
      /** in [B, N, d] f32 bf16 */ gradOut: Tensor;
      /** in [B] f32 */ rowScale: Tensor;
      /** out [B, N, d] like gradOut */ gradBranch?: Tensor | undefined;
    },
    flags?: CallFlags,
  ): {
    gradBranch: Tensor;
  };
}
