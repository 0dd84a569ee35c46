import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

export interface PromptOptions {
  /** The row where the prompts go, from 0 to N. */
  at: number;
  /** How many rows from there on give way to them, at most N − at. Default 0. */
  replaced?: number;
}

/**
 * Puts learned tokens, the same for all images, into a sequence or in place of some of its rows: `out_b = x_b[0:at] ++ prompt ++ x_b[at+replaced:N]`.
 * @param x - tokens [B, N, d], f32 or bf16
 * @param prompt - [l, d], f32
 * @returns [B, N + l − replaced, d], dtype of x
 * Keeps for backward: nothing. Rows that gave way get a gradient of zeros.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError; ArgumentError for rows that x does not have
 * @see Jia et al., arXiv 2203.12119, section 3.2
 * @example const tokens = ops.insertPrompts(z, prompt, { at: 1 });
 */
export function insertPrompts(x: Tensor, prompt: Tensor, { at, replaced = 0 }: PromptOptions): Tensor {
  const inputs = { x, prompt };
  const { out } = kernels.promptForward({ ...inputs, at, replaced });
  const prompts = prompt.shape[0]!;
  return record('insertPrompts', inputs, out, {
    backward: ({ gradOut, wanted, accumulator }) => {
      const { gradX } = kernels.promptBackward(
        { gradOut, prompts, at, replaced, gradPrompt: accumulator('prompt') },
        { wanted: { gradX: wanted.x ?? false }, kind: 'gradients' },
      );
      return { x: gradX };
    },
  });
}
