import { pool } from '../../lib/ops';
import { type Case, kernelTest } from '../kernel_test';
import { pool as reference } from '../reference/pool';

function poolCase(
  name: string,
  shape: number[],
  mode: 'first' | 'mean',
  prefixTokens = 0,
  extra: Partial<Case> = {},
): Case {
  return {
    name: `${mode}, ${prefixTokens} prefix tokens, ${name}`,
    inputs: { x: { shape, mean: 0.5 } },
    options: { mode, prefixTokens },
    keeps: () => 0,
    ...extra,
  };
}

kernelTest('pool', {
  cases: [
    poolCase('one token of one number', [1, 1, 1], 'mean'),
    poolCase('one row', [1, 1, 24], 'first'),
    ...[15, 16, 17, 33].flatMap((d) => [
      poolCase(`width ${d}`, [2, 5, d], 'first'),
      poolCase(`width ${d}`, [2, 5, d], 'mean', 1),
    ]),
    poolCase('197 tokens', [3, 197, 10], 'mean', 1),
    poolCase('197 tokens', [1, 197, 10], 'first', 1),
    poolCase('ViT-B rows', [2, 6, 768], 'mean', 1),
    poolCase('one token left', [2, 4, 8], 'mean', 3),
    poolCase('zeros', [2, 3, 4], 'mean', 0, { inputs: { x: { shape: [2, 3, 4], values: () => 0 } }, degenerate: true }),
    poolCase('large numbers', [2, 9, 20], 'mean', 1, { inputs: { x: { shape: [2, 9, 20], scale: 1e4 } } }),
  ],
  run: ({ x }, options) => pool(x!, options),
  reference: ({ x }, { mode, prefixTokens }) => reference(x!, mode, prefixTokens),
  computeInputs: ['x'],
  outputDtype: 'f32',
  differentiable: ['x'],
  // A sum of up to 196 numbers one after another; the gradient is one product.
  tolerance: { f32: { out: 20, grad: 2 }, bf16: { out: 1, grad: 2 } },
  bad: [
    {
      name: 'no token left for the mean',
      call: (tensor) => pool(tensor([2, 4, 8]), { mode: 'mean', prefixTokens: 4 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'prefixTokens',
      message: /poolForward: 'prefixTokens' is 4, expected less than 4, the number of tokens of 'x'/,
    },
    {
      name: 'negative prefix',
      call: (tensor) => pool(tensor([2, 4, 8]), { mode: 'mean', prefixTokens: -1 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'prefixTokens',
    },
    {
      name: 'a fractional prefix',
      call: (tensor) => pool(tensor([2, 4, 8]), { mode: 'mean', prefixTokens: 0.5 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'prefixTokens',
    },
    {
      name: 'unknown mode',
      call: (tensor) => pool(tensor([2, 4, 8]), { mode: 'cls' as never }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'mode',
      message: /'mode' is 'cls', expected one of 'first', 'mean'/,
    },
    {
      name: 'x of two dimensions',
      call: (tensor) => pool(tensor([4, 8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'x',
    },
    {
      name: 'x of pixels',
      call: (tensor) => pool(tensor([2, 4, 8], 'u8')),
      code: 'SIDETUNE_DTYPE',
      argument: 'x',
    },
  ],
});

kernelTest('pool, rows in the dtype of the tokens', {
  cases: [
    poolCase('one row', [1, 1, 24], 'first'),
    ...[15, 16, 17].map((d) => poolCase(`width ${d}`, [3, 5, d], 'first')),
    poolCase('197 tokens', [2, 197, 33], 'mean', 1),
    poolCase('large numbers', [2, 9, 20], 'first', 0, { inputs: { x: { shape: [2, 9, 20], scale: 1e4 } } }),
  ],
  run: ({ x }, options) => pool(x!, { ...options, dtype: x!.dtype as 'f32' | 'bf16' }),
  reference: ({ x }, { mode, prefixTokens }) => reference(x!, mode, prefixTokens),
  computeInputs: ['x'],
  differentiable: ['x'],
  // As above, and one rounding to the dtype.
  tolerance: { f32: { out: 20, grad: 2 }, bf16: { out: 2, grad: 2 } },
  bad: [
    {
      name: 'a dtype that it does not write',
      call: (tensor) => pool(tensor([2, 4, 8]), { dtype: 'i8' as never }),
      code: 'SIDETUNE_DTYPE',
      argument: 'out',
    },
  ],
});
