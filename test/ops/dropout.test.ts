import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import type { Device } from '../../lib/device';
import { DisposedError } from '../../lib/errors';
import { type DropoutOptions, dropout, randomUniform_ } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { onEachTarget, openDevice } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { kept, dropout as reference } from '../reference/dropout';

const half = { rate: 0.5, seed: 1, stream: 0 };

function dropoutCase(name: string, shape: number[], options: Partial<DropoutOptions> = {}, step = 7): Case {
  return {
    name,
    inputs: { x: shape, step: { shape: [1], values: () => step, dtype: 'i32' } },
    options: { ...half, ...options },
    keeps: () => 0, // step is an input
  };
}

kernelTest('dropout', {
  cases: [
    { ...dropoutCase('one number', [1]), degenerate: true }, // it may be dropped
    ...[3, 4, 5, 15, 16, 17, 31, 33].map((size) => dropoutCase(`${size} numbers`, [size])),
    ...[255, 256, 257].map((size) => dropoutCase(`${size} numbers`, [size], { rate: 0.1 })),
    dropoutCase('one row', [1, 24], { rate: 0.25, stream: 5 }),
    dropoutCase('three rows of 7', [3, 7], { rate: 0.1, seed: 2 ** 53 - 1, stream: 2 ** 31 - 1 }, -1),
    dropoutCase('197 tokens', [1, 197, 12], { rate: 0.1 }),
    dropoutCase('several threads', [3, 7, 1001], { rate: 0.1 }),
    dropoutCase('rate 0', [3, 17], { rate: 0 }),
    dropoutCase('hardly anything kept', [5, 101], { rate: 0.99 }),
    dropoutCase('a rate of hardly anything', [40], { rate: 1e-12 }),
    {
      ...dropoutCase('extremes', [2, 24]),
      inputs: { x: { shape: [2, 24], scale: 1e30 }, step: { shape: [1], values: () => 0, dtype: 'i32' } },
    },
  ],
  run: ({ x, step }, options) => dropout(x!, step!, options as DropoutOptions),
  reference: ({ x, step }, options) => reference(x!, step!, options as DropoutOptions),
  computeInputs: ['x'],
  differentiable: ['x'],
  // 1/(1 − rate) and the product are rounded; the difference quotient, too.
  tolerance: { f32: { out: 2, grad: 3 }, bf16: { out: 2, grad: 2 } },
  bad: [
    ...(
      [
        ['rate 1', { ...half, rate: 1 }, 'rate'],
        ['a rate that is 1 in f32', { ...half, rate: 1 - 1e-12 }, 'rate'],
        ['a rate above 1', { ...half, rate: 1.5 }, 'rate'],
        ['a negative rate', { ...half, rate: -0.1 }, 'rate'],
        ['a rate of NaN', { ...half, rate: Number.NaN }, 'rate'],
        ['no rate', { seed: 1, stream: 0 }, 'rate'],
        ['no seed', { rate: 0.5, stream: 0 }, 'seed'],
        ['a seed that JavaScript cannot hold', { ...half, seed: 2 ** 53 }, 'seed'],
        ['half a seed', { ...half, seed: 0.5 }, 'seed'],
        ['no stream', { rate: 0.5, seed: 1 }, 'stream'],
        ['a negative stream', { ...half, stream: -1 }, 'stream'],
        ['a stream of 32 bits', { ...half, stream: 2 ** 31 }, 'stream'],
        ['an unknown option', { ...half, probability: 0.5 }, 'probability'],
      ] as const
    ).map(([name, options, argument]) => ({
      name,
      call: (tensor: (shape: readonly number[], dtype?: 'i32') => Tensor) =>
        dropout(tensor([8]), tensor([1], 'i32'), options as never),
      code: 'SIDETUNE_ARGUMENT',
      argument,
    })),
    {
      name: 'x of integers',
      call: (tensor) => dropout(tensor([8], 'i32'), tensor([1], 'i32'), half),
      code: 'SIDETUNE_DTYPE',
      argument: 'x',
    },
    {
      name: 'a step in f32',
      call: (tensor) => dropout(tensor([8]), tensor([1]), half),
      code: 'SIDETUNE_DTYPE',
      argument: 'step',
      message: /dropout: 'step' is f32, expected i32/,
    },
    {
      name: 'two steps',
      call: (tensor) => dropout(tensor([8]), tensor([2], 'i32'), half),
      code: 'SIDETUNE_SHAPE',
      argument: 'step',
    },
    {
      name: 'a step that is a number',
      call: (tensor) => dropout(tensor([8]), 3 as never, half),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'step',
    },
    {
      name: 'a disposed step',
      call: (tensor) => {
        const step = tensor([1], 'i32');
        step.dispose();
        return dropout(tensor([8]), step, half);
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'step',
    },
  ],
});

const stepOf = (device: Device, step: number): Tensor =>
  Tensor.from(device, Int32Array.of(step), [1], { dtype: 'i32', kind: 'data' });

/** Dropout of ones. */
async function masked(device: Device, size: number, step: number, options: DropoutOptions): Promise<Float32Array> {
  using x = Tensor.from(device, new Float32Array(size).fill(1), [size]);
  using at = stepOf(device, step);
  using out = dropout(x, at, options);
  return (await out.read()) as Float32Array;
}

const places = [
  { seed: 0, stream: 0, step: 0 },
  { seed: 42, stream: 3, step: 1000 },
  { seed: 2 ** 53 - 1, stream: 2 ** 31 - 1, step: 2 ** 31 - 1 },
  { seed: 2 ** 32, stream: 1, step: -5 },
];
const many = 250_000;

describe('what dropout keeps', () => {
  it.each(places)(
    'has the bits of the reference, seed $seed, stream $stream, step $step',
    async ({ step, ...place }) => {
      await onEachTarget(async (device) => {
        for (const rate of [0.1, 0.5, 0.75]) {
          const scale = Math.fround(1 / (1 - Math.fround(rate)));
          for (const size of [1, 3, 17, 256, 257, 5001]) {
            const expected = Float32Array.from(kept(size, step, { rate, ...place }), (keep) => keep * scale);
            expect(await masked(device, size, step, { rate, ...place })).toEqual(expected);
          }
        }
      });
    },
  );

  it('is the same for the same seed, stream and step, whatever the number of threads', async () => {
    const expected = kept(20_000, 4, { rate: 0.5, seed: 9, stream: 2 });
    for (const threads of [1, 2, 3]) {
      await onEachTarget(
        async (device) => {
          for (let again = 0; again < 2; again++) {
            const out = await masked(device, 20_000, 4, { rate: 0.5, seed: 9, stream: 2 });
            expect(Uint8Array.from(out, (value) => value / 2)).toEqual(expected);
          }
        },
        { threads },
      );
    }
  });

  it('has nothing in common with that of another step, stream or seed', async () => {
    await onEachTarget(async (device) => {
      const one = await masked(device, many, 1, half);
      for (const [step, other] of [
        [2, half],
        [1, { ...half, stream: 1 }],
        [1, { ...half, seed: 2 }],
        [1, { ...half, seed: 1 + 2 ** 32 }],
      ] as const) {
        const two = await masked(device, many, step, other);
        const agreeing = one.filter((value, i) => value === two[i]).length / many;
        expect(Math.abs(agreeing - 0.5)).toBeLessThan(0.005); // five standard errors
      }
    });
  });

  it('has nothing in common with the random numbers of the same seed', async () => {
    await onEachTarget(async (device) => {
      const mask = await masked(device, many, 0, half);
      using uniform = Tensor.empty(device, [many]);
      const numbers = (await randomUniform_(uniform, { seed: half.seed }).read()) as Float32Array;
      const agreeing = mask.filter((value, i) => value > 0 === numbers[i]! >= 0.5).length / many;
      expect(Math.abs(agreeing - 0.5)).toBeLessThan(0.005);
    });
  });

  it.each([0.1, 0.5, 0.9])('at rate %f is a share of the right mean and variance', async (rate) => {
    await onEachTarget(async (device) => {
      const out = await masked(device, many, 3, { rate, seed: 8, stream: 1 });
      const scale = Math.fround(1 / (1 - Math.fround(rate)));
      expect(out.every((value) => value === 0 || value === scale)).toBe(true);
      // Shares of 100 numbers each are binomial.
      const shares = Array.from({ length: many / 100 }, (_, i) =>
        out.subarray(100 * i, 100 * i + 100).reduce((sum, value) => sum + (value > 0 ? 0.01 : 0), 0),
      );
      const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
      const variance = shares.reduce((sum, share) => sum + (share - mean) ** 2, 0) / shares.length;
      expect(Math.abs(mean - (1 - rate))).toBeLessThan(0.005);
      expect(Math.abs(variance / ((rate * (1 - rate)) / 100) - 1)).toBeLessThan(0.15);
    });
  });
});

describe('dropout', () => {
  it('of rate 0 gives the same bits', async () => {
    const numbers = Float32Array.from({ length: 77 }, (_, i) => Math.sin(i) * 10 ** ((i % 60) - 30));
    await onEachTarget(async (device) => {
      using x = Tensor.from(device, numbers, [7, 11]);
      using step = stepOf(device, 1);
      using out = dropout(x, step, { ...half, rate: 0 });
      expect(await out.read()).toEqual(numbers);
    });
  });

  it('makes 0 of infinities and NaN that are dropped, and keeps the others', async () => {
    const size = 40;
    const mask = kept(size, 2, half);
    await onEachTarget(async (device) => {
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        using x = Tensor.from(device, new Float32Array(size).fill(value), [size]);
        using step = stepOf(device, 2);
        using out = dropout(x, step, half);
        expect(await out.read()).toEqual(Float32Array.from(mask, (keep) => (keep ? value : 0)));
      }
    });
  });

  it('has one mask forward and backward, and keeps the step alone', async () => {
    await onEachTarget(async (device) => {
      for (const dtype of ['f32', 'bf16'] as const) {
        using x = Tensor.from(device, new Float32Array(3001).fill(1), [3001], { dtype });
        using step = stepOf(device, 11);
        const tape = new Tape();
        tape.watch(x);
        using out = tape.run(() => dropout(x, step, { rate: 0.3, seed: 5, stream: 6 }));
        expect(tape.report()).toMatchObject([{ op: 'dropout', name: 'step', bytes: 4 }]);
        tape.seed(out, x);
        tape.backward();
        using grad = tape.takeGradient(x);
        expect(await grad.read()).toEqual(await out.read());
      }
    });
  });

  it('refuses a backward of another step', async () => {
    await onEachTarget(async (device) => {
      using x = Tensor.from(device, new Float32Array(8).fill(1), [8]);
      using step = stepOf(device, 1);
      const tape = new Tape();
      tape.watch(x);
      using out = tape.run(() => dropout(x, step, half));
      step.write(Int32Array.of(2));
      tape.seed(out, x);
      expect(() => tape.backward()).toThrow(DisposedError);
    });
  });

  it('replayed takes the step of the run', async () => {
    await using device = await openDevice({ guards: true });
    const x = Tensor.from(device, new Float32Array(1001).fill(1), [7, 143]);
    const options = { rate: 0.25, seed: 3, stream: 4 };
    const pass = ({ step }: { step: Tensor }) =>
      scope(() => {
        const tape = new Tape();
        tape.watch(x);
        const out = tape.run(() => dropout(x, step, options));
        tape.seed(out, x);
        tape.backward();
        return { out, grad: tape.takeGradient(x) };
      });
    const check = async ({ out, grad }: ReturnType<typeof pass>, step: number): Promise<void> => {
      const scale = Math.fround(1 / 0.75);
      const expected = Float32Array.from(kept(1001, step, options), (keep) => keep * scale);
      expect(await out.read()).toEqual(expected);
      expect(await grad.read()).toEqual(expected);
      out.dispose();
      grad.dispose();
    };
    const { replay, result } = device.record({ step: stepOf(device, 1) }, pass);
    await check(result, 1);
    for (const step of [2, 1, 12345])
      await check(
        replay.run((inputs) => inputs.step.write(Int32Array.of(step))),
        step,
      );
    expect(await device.checkGuards()).toBeNull();
    replay.dispose();
    x.dispose();
  });
});
