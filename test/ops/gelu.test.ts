import { expect, it } from 'vitest';
import { gelu } from '../../lib/ops';
import { Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { normalCdf, gelu as reference } from '../reference/gelu';

function geluCase(name: string, shape: number[], extra: Partial<Case> = {}): Case {
  return { name, inputs: { x: { shape, scale: 2 } }, keeps: () => 0, ...extra };
}

const extremes = [1e4, -1e4, 30, -30, 1e-30, -1e-30, 1, -1];

kernelTest('gelu', {
  goldens: [{ file: 'gelu', inputs: { x: 'x' }, output: 'y', floor: true }],
  cases: [
    geluCase('one number', [1]),
    ...[15, 16, 17, 31, 33].map((size) => geluCase(`${size} numbers`, [size])),
    geluCase('197 tokens', [1, 197, 12]),
    geluCase('several threads', [3, 7, 1001]),
    geluCase('zeros', [2, 5], { inputs: { x: { shape: [2, 5], values: () => 0 } }, degenerate: true }),
    geluCase('extremes', [8], {
      inputs: { x: { shape: [8], values: (i) => extremes[i]! } },
      floor: { f32: 1e-6, bf16: 1e-2 },
    }),
  ],
  run: ({ x }) => gelu(x!),
  reference: ({ x }) => reference(x!),
  computeInputs: ['x'],
  differentiable: ['x'],
  // Roundings of the tail (exponential, rational function, product) and of the sum with x.
  tolerance: { f32: { out: 6, grad: 10 }, bf16: { out: 2, grad: 3 } },
  bad: [
    {
      name: 'x of integers',
      call: (tensor) => gelu(tensor([2, 8], 'i32')),
      code: 'SIDETUNE_DTYPE',
      argument: 'x',
      message: /geluForward: 'x' is i32, expected f32 or bf16/,
    },
    {
      name: 'a disposed tensor',
      call: (tensor) => {
        const x = tensor([8]);
        x.dispose();
        return gelu(x);
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'x',
    },
    {
      name: 'something that is no tensor',
      call: () => gelu({} as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'x',
    },
  ],
});

it('gelu keeps its digits in the left tail, down to 1e-31', async () => {
  const data = Float32Array.from({ length: 1200 }, (_, i) => -i / 100);
  await onEachTarget(async (device) => {
    using x = Tensor.from(device, data, [data.length]);
    using out = gelu(x);
    const got = await out.read();
    for (const [i, value] of data.entries()) {
      const want = value * normalCdf(value);
      // 1e-6 with fused multiply-add; without it e^{−x²/2} carries the rounding of x².
      expect(Math.abs(got[i]! - want)).toBeLessThanOrEqual(6e-6 * Math.abs(want));
    }
  });
});

it('gelu of infinities and NaN', async () => {
  const data = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
  await onEachTarget(async (device) => {
    using x = Tensor.from(device, data, [3]);
    using out = gelu(x);
    expect([...(await out.read())]).toEqual([Number.POSITIVE_INFINITY, 0, Number.NaN]);
  });
});
