import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import { scope } from '../scope';
import { Tensor } from '../tensor';

export interface PoolOptions {
  /** `first`: the first token. `mean`: the mean of all tokens after the prefix. Default `first`. */
  mode?: 'first' | 'mean';
  /** Tokens at the start that `mean` leaves out, such as CLS. Default 0. */
  prefixTokens?: number;
  /** Of the result. Default f32: what follows is one row an image. */
  dtype?: 'f32' | 'bf16';
}

/**
 * One row for each image: `out_b = x_{b,0}`, or `out_b = Σ_{n ≥ P} x_{b,n} / (N − P)` with P prefix tokens.
 * @param x - tokens [B, N, d], f32 or bf16
 * @returns [B, d], f32 or `dtype`
 * Keeps for backward: nothing.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError; ArgumentError when no token is left
 * @example const features = ops.pool(tokens, { mode: 'mean', prefixTokens: 1 });
 */
export function pool(x: Tensor, { mode = 'first', prefixTokens = 0, dtype = 'f32' }: PoolOptions = {}): Tensor {
  const inputs = { x };
  const out = scope(() => {
    const rows = emptyRows(x, dtype);
    kernels.poolForward({ ...inputs, out: rows, mode, prefixTokens });
    return rows!;
  });
  const { device, shape, dtype: dtypeOfTokens } = x;
  return record('pool', inputs, out, {
    backward: ({ gradOut }) => {
      const gradX = Tensor.empty(device, shape, { dtype: dtypeOfTokens, kind: 'gradients' });
      kernels.poolBackward({ gradOut, gradX, mode, prefixTokens });
      return { x: gradX };
    },
  });
}

// Undefined where x is no tokens: then the kernel says what is wrong with it.
function emptyRows(x: Tensor, dtype: 'f32' | 'bf16'): Tensor | undefined {
  if (!(x instanceof Tensor) || x.disposed || x.shape.length !== 3) return undefined;
  const [batch, , width] = x.shape as [number, number, number];
  return Tensor.empty(x.device, [batch, width], { dtype });
}
