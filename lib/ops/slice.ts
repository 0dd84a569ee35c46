import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import { scope } from '../scope';
import { Tensor } from '../tensor';

export interface SliceOptions {
  /** Of a matrix: the first row and the one behind the last. Default: all. */
  rows?: readonly [from: number, to: number];
  /** The first column and the one behind the last. Default: all. */
  columns?: readonly [from: number, to: number];
}

/**
 * A window of a matrix, or of a vector, as a tensor of its own: `out = x[from:to, from:to]`. For small trained tensors of which a part is at work.
 * @param x - [R, C] or [C], which counts as one row; f32
 * @returns the window, with as many dimensions as x, f32
 * Keeps for backward: nothing. Backward adds into the window of the gradient of x.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError; ArgumentError for a window that x does not have
 * @see Zhang et al. (NOAH), arXiv 2206.04673, whose supernet is sliced so
 * @example const down = ops.slice(supernet, { rows: [0, rank] });
 */
export function slice(x: Tensor, { rows, columns }: SliceOptions = {}): Tensor {
  const known = x instanceof Tensor && !x.disposed ? x.shape : [];
  const isVector = known.length === 1;
  const [R = 0, C = 0] = isVector ? [1, known[0]] : known;
  const window = { rows: rows ?? [0, R], columns: columns ?? [0, C] } as const;
  const inputs = { x };
  const result = scope(() => {
    const { out } = kernels.sliceForward({ x: isVector ? x.reshape([1, C]) : x, ...window });
    return isVector ? out.reshape([out.shape[1]!]) : out;
  });
  return record('slice', inputs, result, {
    backward: ({ gradOut, accumulator }) => {
      const asMatrix = (tensor: Tensor): Tensor => (isVector ? tensor.reshape([1, tensor.shape[0]!]) : tensor);
      kernels.sliceBackward({ gradOut: asMatrix(gradOut), gradX: asMatrix(accumulator('x')!), ...window });
      return {};
    },
  });
}
