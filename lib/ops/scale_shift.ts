import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

/**
 * A scale and a shift for each channel, over the last axis: `out = x · scale + shift`.
 * @param x - [..., d], f32 or bf16
 * @param scale - [d], f32
 * @param shift - [d], f32
 * @returns [..., d], dtype of x; computed in f32
 * Keeps for backward: x, where scale needs a gradient.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see Lian et al., arXiv 2210.08823
 * @example const y = ops.scaleShift(x, scale, shift);
 */
export function scaleShift(x: Tensor, scale: Tensor, shift: Tensor): Tensor {
  const inputs = { x, scale, shift };
  const needed = needs(inputs);
  const { out } = kernels.scaleShiftForward(inputs);
  return record('scaleShift', inputs, out, {
    saved: { x: needed?.scale ? x : undefined, scale: needed?.x ? scale : undefined },
    backward: ({ gradOut, saved, wanted, accumulator }) => {
      const { gradX } = kernels.scaleShiftBackward(
        {
          gradOut,
          x: saved.x,
          scale: saved.scale,
          gradScale: accumulator('scale'),
          gradShift: accumulator('shift'),
        },
        { wanted: { gradX: wanted.x ?? false }, kind: 'gradients' },
      );
      return { x: gradX };
    },
  });
}
