import { expect, it } from 'vitest';
import { relu } from '../../lib/ops';
import { Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { relu as reference } from '../reference/relu';

const numbers = (shape: number[]): number => shape.reduce((product, length) => product * length);

// Numbers away from 0, where the slope jumps and no difference quotient helps.
function reluCase(name: string, shape: number[], extra: Partial<Case> = {}): Case {
  const values = (i: number): number => (i % 2 ? 1 : -1) * (0.25 + ((i * 7919) % 1000) / 500);
  return { name, inputs: { x: { shape, values } }, keeps: (bytes) => numbers(shape) * bytes, ...extra };
}

const extremes = [1e4, -1e4, 3e4, -3e4, 2e4, -2e4];

kernelTest('relu', {
  cases: [
    reluCase('one number', [1]),
    ...[15, 16, 17, 31, 33].map((size) => reluCase(`${size} numbers`, [size])),
    reluCase('197 tokens', [1, 197, 12]),
    reluCase('several threads', [3, 7, 1001]),
    reluCase('extremes', [6], { inputs: { x: { shape: [6], values: (i) => extremes[i]! } } }),
  ],
  run: ({ x }) => relu(x!),
  reference: ({ x }) => reference(x!),
  computeInputs: ['x'],
  differentiable: ['x'],
  tolerance: { f32: { out: 0, grad: 1 }, bf16: { out: 0, grad: 1 } }, // the difference quotient rounds
  bad: [
    {
      name: 'x of integers',
      call: (tensor) => relu(tensor([2, 8], 'i32')),
      code: 'SIDETUNE_DTYPE',
      argument: 'x',
      message: /reluForward: 'x' is i32, expected f32 or bf16/,
    },
    {
      name: 'a disposed tensor',
      call: (tensor) => {
        const x = tensor([8]);
        x.dispose();
        return relu(x);
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'x',
    },
  ],
});

it('relu of zeros, infinities and NaN', async () => {
  const data = [0, -0, 3e38, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
  await onEachTarget(async (device) => {
    using x = Tensor.from(device, data, [6]);
    using out = relu(x);
    expect([...(await out.read())]).toEqual([0, 0, Math.fround(3e38), Number.POSITIVE_INFINITY, 0, Number.NaN]);
  });
});
