import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

export interface GateOptions {
  /** What alpha is divided by, above 0. Default 1; LST's gates have 0.1. */
  temperature?: number;
}

/**
 * A learned gate between two streams: `out = mu · a + (1 − mu) · b` with the one number `mu = sigmoid(alpha / temperature)`.
 * @param a - any shape, f32 or bf16
 * @param b - shape and dtype of a
 * @param alpha - [1], f32
 * @returns shape and dtype of a; computed in f32
 * Keeps for backward: alpha; a and b where alpha needs a gradient.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see Sung et al., arXiv 2206.06522
 * @example const c = ops.gatedMix(side, ops.linear(z, down), alpha, { temperature: 0.1 });
 */
export function gatedMix(a: Tensor, b: Tensor, alpha: Tensor, options: GateOptions = {}): Tensor {
  const inputs = { a, b, alpha };
  const needed = needs(inputs);
  const { out } = kernels.gateForward({ ...inputs, ...options });
  return record('gatedMix', inputs, out, {
    saved: { a: needed?.alpha ? a : undefined, b: needed?.alpha ? b : undefined, alpha },
    backward: ({ gradOut, saved, wanted, accumulator }) => {
      const { gradA, gradB } = kernels.gateBackward(
        { gradOut, a: saved.a, b: saved.b, alpha: saved.alpha!, gradAlpha: accumulator('alpha'), ...options },
        { wanted: { gradA: wanted.a ?? false, gradB: wanted.b ?? false }, kind: 'gradients' },
      );
      return { a: gradA, b: gradB };
    },
  });
}
