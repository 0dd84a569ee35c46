import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

export interface DropoutOptions {
  /** Share of the numbers that become 0: from 0 to below 1. */
  rate: number;
  /** A whole number from 0, below 2⁵³. */
  seed: number;
  /** Tells the dropouts of one model apart: a whole number from 0, below 2³¹. */
  stream: number;
}

/**
 * Dropout: `out = x / (1 − rate)` where a number is kept, else 0. What is kept depends on seed, stream, step and place in the tensor alone, and is the same
 * on every device; rate 0 gives x.
 * @param x - any shape, f32 or bf16
 * @param step - [1], i32: read when the kernel runs, so a replay can be given another one
 * @returns shape and dtype of x
 * Keeps for backward: step, 4 bytes; the mask is made again.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see Srivastava et al., JMLR 15, 2014; Philox4x32-10, Salmon et al., SC 2011
 * @example const y = ops.dropout(x, step, { rate: 0.1, seed: 42, stream: 3 });
 */
export function dropout(x: Tensor, step: Tensor, options: DropoutOptions): Tensor {
  const { out } = kernels.dropout({ x, step, ...options });
  return record('dropout', { x }, out, {
    saved: { step },
    backward: ({ gradOut, saved }) => {
      const { out: gradX } = kernels.dropout({ x: gradOut, step: saved.step!, ...options }, { kind: 'gradients' });
      return { x: gradX };
    },
  });
}
