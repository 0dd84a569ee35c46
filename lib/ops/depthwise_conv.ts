import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

export interface DepthwiseConvOptions {
  /** Rows and columns of the patch grid. */
  grid: readonly [number, number];
  /** Tokens before the grid (CLS), which pass unchanged. Default 0. */
  prefixTokens?: number;
}

/**
 * Depthwise k×k convolution over the patch grid: stride 1, zero 'same' padding ((k−1)/2 rounded down before, the rest after), no
 * bias, a cross-correlation.
 * @param x - [B, prefixTokens + rows·columns, D], f32 or bf16
 * @param weight - [D, 1, k, k], f32
 * @returns shape and dtype of x
 * Keeps for backward: x, only if the weight needs a gradient.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 */
export function depthwiseConv(x: Tensor, weight: Tensor, options: DepthwiseConvOptions): Tensor {
  const inputs = { x, weight };
  const needed = needs(inputs);
  const { out } = kernels.depthwiseConvForward({ ...inputs, ...options });
  return record('depthwiseConv', inputs, out, {
    saved: { x: needed?.weight ? x : undefined, weight },
    backward: ({ gradOut, saved, wanted, accumulator }) => {
      const { gradX } = kernels.depthwiseConvBackward(
        { gradOut, x: saved.x, weight: saved.weight!, gradWeight: accumulator('weight'), ...options },
        { wanted: { gradX: wanted.x ?? false }, kind: 'gradients' },
      );
      return { x: gradX };
    },
  });
}
