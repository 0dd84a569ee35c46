import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

/**
 * GELU in its exact form, `out = x Φ(x)` with Φ the normal distribution function.
 * @param x - any shape, f32 or bf16
 * @returns shape and dtype of x
 * Keeps for backward: x.
 * @throws DtypeError, DisposedError, DeviceError, ArgumentError
 * @see Hendrycks and Gimpel, arXiv 1606.08415
 * @example const y = ops.gelu(ops.linear(x, weight, bias));
 */
export function gelu(x: Tensor): Tensor {
  const inputs = { x };
  const { out } = kernels.geluForward(inputs);
  return record('gelu', inputs, out, {
    saved: inputs,
    backward: ({ gradOut, saved }) => {
      const { gradX } = kernels.geluBackward({ gradOut, x: saved.x! }, { kind: 'gradients' });
      return { x: gradX };
    },
  });
}
