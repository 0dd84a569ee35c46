import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import { Tensor } from '../tensor';

export interface PoolOptions {
  /** `first`: the first token. `mean`: the mean of all tokens after the prefix. Default `first`. */
  mode?: 'first' | 'mean';
  /** Tokens at the start that `mean` leaves out, such as CLS. Default 0. */
  prefixTokens?: number;
}

/**
 * One row for each image: `out_b = x_{b,0}`, or `out_b = Σ_{n ≥ P} x_{b,n} / (N − P)` with P prefix tokens.
 * @param x - tokens [B, N, d], f32 or bf16
 * @returns [B, d], f32
 * Keeps for backward: nothing.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError; ArgumentError when no token is left
 * @example const features = ops.pool(tokens, { mode: 'mean', prefixTokens: 1 });
 */
export function pool(x: Tensor, { mode = 'first', prefixTokens = 0 }: PoolOptions = {}): Tensor {
  const inputs = { x };
  const { out } = kernels.poolForward({ ...inputs, mode, prefixTokens });
  const { device, shape, dtype } = x;
  return record('pool', inputs, out, {
    backward: ({ gradOut }) => {
      const gradX = Tensor.empty(device, shape, { dtype, kind: 'gradients' });
      kernels.poolBackward({ gradOut, gradX, mode, prefixTokens });
      return { x: gradX };
    },
  });
}
