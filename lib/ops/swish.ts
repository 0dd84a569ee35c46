import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

export interface SwishOptions {
  /** Slope β of the sigmoid. Default 1 (SiLU); DTL's θ has 100. */
  beta?: number;
}

/**
 * Swish, element by element: `out = x · sigmoid(β x)`.
 * @param x - any shape, f32 or bf16
 * @returns shape and dtype of x
 * Keeps for backward: x.
 * @throws DtypeError, DisposedError, DeviceError, ArgumentError
 * @see Ramachandran et al., arXiv 1710.05941
 */
export function swish(x: Tensor, options: SwishOptions = {}): Tensor {
  const { out } = kernels.swishForward({ x, ...options });
  return record('swish', { x }, out, {
    saved: { x },
    backward: ({ gradOut, saved }) => {
      const { gradX } = kernels.swishBackward({ gradOut, x: saved.x!, ...options }, { kind: 'gradients' });
      return { x: gradX };
    },
  });
}
