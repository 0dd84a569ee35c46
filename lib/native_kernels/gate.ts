/** Types of the raw kernels. Made by scripts/generate-kernels.mjs from the addon's own description; do not edit. */

import type { CallFlags } from '../native';
import type { Tensor } from '../tensor';

export interface GateKernels {
  gateForward(
    args: {
      /** in [...] f32 bf16 */ a: Tensor;
      /** in [...] like a */ b: Tensor;
      /** in [1] f32 */ alpha: Tensor;
      /** out [...] like a */ out?: Tensor | undefined;
      temperature?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    out: Tensor;
  };
  gateBackward(
    args: {
      /** in [...] f32 bf16 */ gradOut: Tensor;
      /** in [...] like gradOut */ a?: Tensor | undefined;
      /** in [...] like gradOut */ b?: Tensor | undefined;
      /** in [1] f32 */ alpha: Tensor;
      /** out [...] like gradOut */ gradA?: Tensor | undefined;
      /** out [...] like gradOut */ gradB?: Tensor | undefined;
      /** inOut [1] f32 */ gradAlpha?: Tensor | undefined;
      temperature?: number | undefined;
    },
    flags?: CallFlags,
  ): {
    gradA: Tensor;
    gradB: Tensor;
  };
}
