import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

/**
 * ReLU, `out = max(x, 0)`. Its slope at 0 is 0.
 * @param x - any shape, f32 or bf16
 * @returns shape and dtype of x
 * Keeps for backward: the result, which a linear layer behind it keeps anyway.
 * @throws DtypeError, DisposedError, DeviceError, ArgumentError
 * @example const y = ops.linear(ops.relu(ops.linear(x, down)), up);
 */
export function relu(x: Tensor): Tensor {
  const inputs = { x };
  const { out } = kernels.reluForward(inputs);
  return record('relu', inputs, out, {
    saved: { out },
    backward: ({ gradOut, saved }) => {
      const { gradX } = kernels.reluBackward({ gradOut, out: saved.out! }, { kind: 'gradients' });
      return { x: gradX };
    },
  });
}
