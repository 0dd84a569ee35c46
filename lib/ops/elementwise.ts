import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import { scope } from '../scope';
import { Tensor } from '../tensor';

/**
 * `out = a + b`.
 * @param a - any shape, f32 or bf16
 * @param b - shape and dtype of a
 * @returns shape and dtype of a
 * Keeps for backward: nothing.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError
 */
export function add(a: Tensor, b: Tensor): Tensor {
  const inputs = { a, b };
  const { out } = kernels.addForward(inputs);
  return record('add', inputs, out, { backward: ({ gradOut }) => ({ a: gradOut, b: gradOut }) });
}

/**
 * `target += x`, in place. Not recorded for gradients.
 * @param target - any shape, f32 or bf16
 * @param x - shape and dtype of target
 * @returns target
 * @throws ShapeError, DtypeError, DisposedError, DeviceError
 */
export function addInto_(target: Tensor, x: Tensor): Tensor {
  kernels.addInto({ target, x });
  return target;
}

/**
 * `out = factor · x`.
 * @param x - any shape, f32 or bf16
 * @returns shape and dtype of x
 * Keeps for backward: nothing.
 * @throws DtypeError, DisposedError, DeviceError, ArgumentError
 */
export function scale(x: Tensor, factor: number): Tensor {
  const inputs = { x };
  const { out } = kernels.scale({ ...inputs, factor });
  return record('scale', inputs, out, {
    backward: ({ gradOut }) => ({ x: kernels.scale({ x: gradOut, factor }, { kind: 'gradients' }).out }),
  });
}

/**
 * The numbers of `x` in another dtype, rounded to nearest even; always a tensor of its own. Pixels (u8) become 0 … 255.
 * @param x - any shape, f32, bf16 or u8
 * @param dtype - f32 or bf16
 * @returns shape of x
 * Keeps for backward: nothing.
 * @throws DtypeError, DisposedError, DeviceError
 */
export function cast(x: Tensor, dtype: 'f32' | 'bf16'): Tensor {
  const inputs = { x };
  const { device, shape, dtype: from } = x;
  const out = scope(() => {
    const made = Tensor.empty(device, shape, { dtype });
    kernels.cast({ x, out: made });
    return made;
  });
  return record('cast', inputs, out, {
    backward: ({ gradOut }) => {
      const gradX = Tensor.empty(device, shape, { dtype: from, kind: 'gradients' });
      kernels.cast({ x: gradOut, out: gradX });
      return { x: gradX };
    },
  });
}

/**
 * The same numbers seen with another shape: the result shares the bytes of `x`.
 * @param x - any shape, any dtype
 * @param shape - of as many numbers
 * Keeps for backward: nothing.
 * @throws ShapeError, DisposedError
 */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const inputs = { x };
  const before = x.shape;
  return record('reshape', inputs, x.reshape(shape), { backward: ({ gradOut }) => ({ x: gradOut.reshape(before) }) });
}

/**
 * Sets every number of `out` to `value`, in place. Not recorded for gradients.
 * @param out - any shape, f32 or bf16
 * @returns out
 * @throws DtypeError, DisposedError, DeviceError, ArgumentError
 */
export function fill_(out: Tensor, value: number): Tensor {
  kernels.fill({ out, value });
  return out;
}

/**
 * The residual add of stochastic depth, `out_b = x_b + rowScale_b · branch_b`: rowScale is 0 for images that skip the branch and 1/keep for the others
 * ({@link randomKeep_} draws it).
 * @param x - [B, N, d], f32 or bf16
 * @param branch - shape and dtype of x
 * @param rowScale - [B], f32
 * @returns shape and dtype of x
 * Keeps for backward: rowScale.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError
 * @see Huang et al., arXiv 1603.09382
 */
export function residualAdd(x: Tensor, branch: Tensor, rowScale: Tensor): Tensor {
  const inputs = { x, branch };
  const { out } = kernels.residualAddForward({ ...inputs, rowScale });
  return record('residualAdd', inputs, out, {
    saved: { rowScale },
    backward: ({ gradOut, saved, wanted }) => {
      if (!wanted.branch) return { x: gradOut };
      const { gradBranch } = kernels.residualAddBackward({ gradOut, rowScale: saved.rowScale! }, { kind: 'gradients' });
      return { x: gradOut, branch: gradBranch };
    },
  });
}

/**
 * Stochastic depth of a branch that goes on by itself, `out_b = rowScale_b · x_b`; {@link residualAdd} does it where it is added.
 * @param x - [B, N, d], f32 or bf16
 * @param rowScale - [B], f32
 * @returns shape and dtype of x
 * Keeps for backward: rowScale.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError
 */
export function scaleImages(x: Tensor, rowScale: Tensor): Tensor {
  // Its own backward, and that of residualAdd.
  const { gradBranch: out } = kernels.residualAddBackward({ gradOut: x, rowScale });
  return record('scaleImages', { x }, out, {
    saved: { rowScale },
    backward: ({ gradOut, saved }) => ({
      x: kernels.residualAddBackward({ gradOut, rowScale: saved.rowScale! }, { kind: 'gradients' }).gradBranch,
    }),
  });
}
