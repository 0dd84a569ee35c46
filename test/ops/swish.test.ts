import { expect, it } from 'vitest';
import { kernels } from '../../lib/kernels';
import { swish } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type Case, type Golden, kernelTest } from '../kernel_test';
import { swish as reference } from '../reference/swish';

// The slope of β x is β: what x is rounded to shows β times larger near 0, and nowhere else.
function swishCase(name: string, shape: number[], beta: number, extra: Partial<Case> = {}): Case {
  return { name, inputs: { x: { shape, scale: 2 } }, options: { beta }, keeps: () => 0, ...extra };
}

// From ±1e-30 to ±1e4: far beyond where e^{βx} overflows.
const wide = (i: number): number => (i % 2 ? -1 : 1) * 10 ** ((((i >> 1) % 35) - 30) as number);

kernelTest('swish', {
  goldens: [100, 1, 0.5].map(
    (beta): Golden => ({ file: `swish_${beta}`, inputs: { x: 'x' }, output: 'y', options: { beta }, floor: true }),
  ),
  cases: [
    swishCase('one number', [1], 1),
    ...[15, 16, 17, 31, 33].map((size) => swishCase(`${size} numbers`, [size], 1)),
    swishCase('197 tokens', [1, 197, 5], 100),
    swishCase('negative beta', [3, 7], -2),
    swishCase('beta of 0', [3, 7], 0),
    swishCase('±1e4 through Swish-100', [2, 70], 100, {
      inputs: { x: { shape: [2, 70], values: wide } },
      floor: { f32: 1e-6, bf16: 1e-3 },
    }),
    swishCase('zeros', [5], 100, { inputs: { x: { shape: [5], values: () => 0 } }, degenerate: true }),
    swishCase('denormal numbers', [20], 1, {
      inputs: { x: { shape: [20], scale: 1e-39 } },
      degenerate: true,
      floor: { f32: 1e-6, bf16: 1e-3 },
    }),
  ],
  run: ({ x }, options) => swish(x!, options),
  reference: ({ x }, { beta }) => reference(x!, beta),
  computeInputs: ['x'],
  differentiable: ['x'],
  // An exponential, a division and a product; the slope has two products more.
  tolerance: { f32: { out: 10, grad: 20 }, bf16: { out: 2, grad: 3 } },
  bad: [
    { name: 'integers', call: (tensor) => swish(tensor([4], 'i32')), code: 'SIDETUNE_DTYPE', argument: 'x' },
    {
      name: 'NaN beta',
      call: (tensor) => swish(tensor([4]), { beta: Number.NaN }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'beta',
      message: /expected a finite number/,
    },
    {
      name: 'an unknown option',
      call: (tensor) => swish(tensor([4]), { slope: 1 } as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'slope',
    },
    {
      name: 'a disposed tensor',
      call: (tensor) => {
        const x = tensor([4]);
        x.dispose();
        return swish(x);
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'x',
    },
  ],
});

it('NaN stays NaN, forward and in the gradient, on every target', async () => {
  await onEachTarget(async (device) => {
    await scope(async () => {
      const x = Tensor.from(device, [Number.NaN, 1, -1], [3]);
      const gradOut = Tensor.from(device, [1, 1, 1], [3]);
      const { out } = kernels.swishForward({ x, beta: 100 });
      const { gradX } = kernels.swishBackward({ gradOut, x, beta: 100 });
      for (const tensor of [out, gradX])
        expect(Array.from(await tensor.read(), Number.isNaN)).toEqual([true, false, false]);
    });
  });
});
