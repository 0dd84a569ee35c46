import { insertPrompts } from '../../lib/ops';
import { type Case, kernelTest } from '../kernel_test';
import { insertPrompts as reference } from '../reference/prompt';

function promptCase(
  name: string,
  shape: number[],
  prompts: number,
  at: number,
  replaced = 0,
  extra: Partial<Case> = {},
): Case {
  return {
    name: `${prompts} at ${at} for ${replaced}, ${name}`,
    inputs: { x: { shape, mean: 0.5 }, prompt: [prompts, shape[2]!] },
    options: { at, replaced },
    keeps: () => 0,
    ...extra,
  };
}

kernelTest('prompt', {
  cases: [
    promptCase('one token of one number', [1, 1, 1], 1, 1),
    ...[15, 16, 17, 33].flatMap((d) => [
      promptCase(`width ${d}`, [2, 5, d], 3, 1),
      promptCase(`width ${d}`, [2, 5, d], 2, 1, 3),
    ]),
    promptCase('before all tokens', [3, 4, 12], 2, 0),
    promptCase('behind all tokens', [3, 4, 12], 2, 4),
    promptCase('as many as they replace', [2, 6, 24], 3, 1, 3),
    promptCase('more than they replace', [2, 6, 20], 4, 2, 1),
    promptCase('in place of all tokens', [2, 3, 8], 2, 0, 3),
    promptCase('in place of the last tokens', [2, 6, 9], 1, 4, 2),
    promptCase('197 tokens', [2, 197, 10], 1, 1),
    promptCase('197 tokens', [1, 197, 8], 10, 1, 5),
    promptCase('more images than a thread takes', [9, 3, 8], 2, 1, 1),
    promptCase('ViT-B rows', [2, 4, 768], 2, 1, 1),
    promptCase('zeros', [2, 3, 4], 2, 1, 0, {
      inputs: { x: { shape: [2, 3, 4], values: () => 0 }, prompt: { shape: [2, 4], values: () => 0 } },
      degenerate: true,
    }),
    promptCase('large numbers', [2, 5, 20], 3, 1, 0, {
      inputs: { x: { shape: [2, 5, 20], scale: 1e4 }, prompt: { shape: [3, 20], scale: 1e4 } },
    }),
  ],
  run: ({ x, prompt }, { at, replaced }) => insertPrompts(x!, prompt!, { at, replaced }),
  reference: ({ x, prompt }, { at, replaced }) => reference(x!, prompt!, at, replaced),
  computeInputs: ['x'],
  differentiable: ['x', 'prompt'],
  // Numbers are copied; a prompt's are rounded once in bf16, which is up to two of ε = 2⁻⁹. A gradient is a sum of up to nine, one after another.
  tolerance: { f32: { out: 0, grad: 4 }, bf16: { out: 2, grad: 2 } },
  bad: [
    {
      name: 'a row behind the last',
      call: (tensor) => insertPrompts(tensor([2, 4, 8]), tensor([3, 8]), { at: 5 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'at',
      message: /promptForward: 'at' is 5, expected at most 4, the number of tokens of 'x'/,
    },
    {
      name: 'more rows replaced than there are',
      call: (tensor) => insertPrompts(tensor([2, 4, 8]), tensor([3, 8]), { at: 2, replaced: 3 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'replaced',
      message: /promptForward: 'replaced' is 3, expected at most 2, the number of tokens of 'x' from row 2/,
    },
    {
      name: 'more rows replaced than come out',
      call: (tensor) => insertPrompts(tensor([2, 4, 8]), tensor([3, 8]), { at: 0, replaced: 9 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'out',
      message: /'out' needs N\+l-R, but 7 - 9 is less than 0 \(R from 'replaced', N from 'x', l from 'prompt'\)/,
    },
    {
      name: 'no row',
      call: (tensor) => insertPrompts(tensor([2, 4, 8]), tensor([3, 8]), {} as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'at',
    },
    {
      name: 'a negative row',
      call: (tensor) => insertPrompts(tensor([2, 4, 8]), tensor([3, 8]), { at: -1 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'at',
    },
    {
      name: 'a fractional row',
      call: (tensor) => insertPrompts(tensor([2, 4, 8]), tensor([3, 8]), { at: 0.5 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'at',
    },
    {
      name: 'a negative number of rows replaced',
      call: (tensor) => insertPrompts(tensor([2, 4, 8]), tensor([3, 8]), { at: 1, replaced: -1 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'replaced',
    },
    {
      name: 'prompts of another width',
      call: (tensor) => insertPrompts(tensor([2, 4, 8]), tensor([3, 7]), { at: 1 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'prompt',
      message:
        /promptForward: 'prompt' has shape \[3, 7\], expected \[l, d\] = \[3, 8\] \(d from 'x', l from 'prompt'\)/,
    },
    {
      name: 'x of two dimensions',
      call: (tensor) => insertPrompts(tensor([4, 8]), tensor([3, 8]), { at: 1 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'x',
    },
    {
      name: 'bf16 prompts',
      call: (tensor) => insertPrompts(tensor([2, 4, 8], 'bf16'), tensor([3, 8], 'bf16'), { at: 1 }),
      code: 'SIDETUNE_DTYPE',
      argument: 'prompt',
    },
    {
      name: 'x of pixels',
      call: (tensor) => insertPrompts(tensor([2, 4, 8], 'u8'), tensor([3, 8]), { at: 1 }),
      code: 'SIDETUNE_DTYPE',
      argument: 'x',
    },
  ],
});
