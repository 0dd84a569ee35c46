import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import type { Device } from '../../lib/device';
import { kernels } from '../../lib/kernels';
import { lowRankCombine_, sideInject, sideInjectLowRank } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { onEachTarget, openDevice } from '../each_target';
import { type Case, type Golden, kernelTest } from '../kernel_test';
import type { Reference } from '../reference/array';
import { lowRankCombine } from '../reference/low_rank';
import { sideInject as reference } from '../reference/side_inject';

// θ with β = 100 bends within 1/100: h of that size tests the bend, h of 1 the rest.
const bend = 0.02;

function plainCase(name: string, shape: number[], extra: Partial<Case> = {}): Case {
  return { name, inputs: { z: shape, h: { shape, scale: bend } }, options: { beta: 100 }, keeps: () => 0, ...extra };
}

const plainBad = {
  otherShape: {
    name: 'h of another shape',
    call: (tensor: (shape: readonly number[]) => Tensor) => sideInject(tensor([2, 8]), tensor([2, 9])),
    code: 'SIDETUNE_SHAPE',
    argument: 'h',
  },
};

kernelTest('side_inject: DTL', {
  goldens: [{ file: 'side_inject', inputs: { z: 'z', h: 'h' }, output: 'z_next', options: { beta: 100 } }],
  cases: [
    plainCase('one row', [1, 24]),
    ...[1, 15, 16, 17, 31, 33].map((d) => plainCase(`width ${d}`, [3, d])),
    plainCase('197 tokens', [1, 197, 10]),
    plainCase('beta of 1', [2, 3, 8], { options: { beta: 1 }, inputs: { z: [2, 3, 8], h: [2, 3, 8] } }),
    plainCase('±1e4 through Swish-100', [4, 20], {
      inputs: { z: [4, 20], h: { shape: [4, 20], values: (i) => (i % 2 ? -1 : 1) * 10 ** ((i % 9) - 4) } },
      floor: { f32: 1e-5, bf16: 2e-2 },
    }),
    plainCase('h of zeros', [3, 8], { inputs: { z: [3, 8], h: { shape: [3, 8], values: () => 0 } }, degenerate: true }),
  ],
  run: ({ z, h }, options) => sideInject(z!, h!, options),
  reference: ({ z, h }, options) => reference(z!, h!, undefined, options),
  computeInputs: ['z'],
  differentiable: ['z', 'h'],
  // θ' near its bend: β x is rounded once, and its sigmoid's slope passes that on.
  tolerance: { f32: { out: 6, grad: 20 }, bf16: { out: 2, grad: 3 } },
  bad: [
    plainBad.otherShape,
    {
      name: 'h in bf16',
      call: (tensor) => sideInject(tensor([2, 8]), tensor([2, 8], 'bf16')),
      code: 'SIDETUNE_DTYPE',
      argument: 'h',
    },
    {
      name: 'infinite beta',
      call: (tensor) => sideInject(tensor([2, 8]), tensor([2, 8]), { beta: Number.POSITIVE_INFINITY }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'beta',
    },
  ],
});

type Grid = [number, number];

function plusCase(
  name: string,
  [B, P, [rows, columns], D, K]: [number, number, Grid, number, number],
  extra: Partial<Case> = {},
): Case {
  const shape = [B, P + rows * columns, D];
  return {
    name,
    inputs: { z: shape, h: { shape, scale: bend }, weight: { shape: [D, 1, K, K], scale: 1 / K } },
    options: { beta: 100, grid: [rows, columns], prefixTokens: P },
    keeps: () => 0,
    ...extra,
  };
}

kernelTest('side_inject: DTL+', {
  goldens: [3, 4, 5].flatMap((k) =>
    [0, 1].map(
      (p): Golden => ({
        file: `side_inject_plus_k${k}_p${p}`,
        inputs: { z: 'z', h: 'h', weight: 'weight' },
        output: 'z_next',
        options: { beta: 100, grid: [4, 4], prefixTokens: p },
      }),
    ),
  ),
  cases: [
    ...[1, 2, 3, 4, 5, 7].map((K) => plusCase(`kernel of ${K}`, [1, 1, [3, 9], 5, K])),
    ...[1, 15, 16, 17, 31, 33].map((D) => plusCase(`${D} channels`, [1, 1, [2, 3], D, 3])),
    plusCase('a grid of one', [2, 1, [1, 1], 6, 3]),
    plusCase('one row', [1, 0, [1, 6], 4, 3]),
    plusCase('one column', [1, 2, [6, 1], 4, 4]),
    plusCase('three images', [3, 1, [3, 2], 7, 5]),
    plusCase('14 × 14 and CLS', [1, 1, [14, 14], 2, 3]),
    plusCase('many channels', [1, 1, [2, 2], 300, 3]),
    plusCase('many images and channels', [6, 1, [2, 2], 100, 3]),
  ],
  run: ({ z, h, weight }, options) => sideInject(z!, h!, { weight, ...options }),
  reference: ({ z, h, weight }, options) => reference(z!, h!, weight, options),
  computeInputs: ['z'],
  differentiable: ['z', 'h', 'weight'],
  tolerance: { f32: { out: 12, grad: 40 }, bf16: { out: 2, grad: 4 } },
  bad: [
    {
      name: 'a grid that does not fit the tokens',
      call: (tensor) =>
        sideInject(tensor([1, 197, 4]), tensor([1, 197, 4]), {
          weight: tensor([4, 1, 3, 3]),
          grid: [14, 13],
          prefixTokens: 1,
        }),
      code: 'SIDETUNE_SHAPE',
      message: /197/,
    },
    {
      name: 'a kernel without a grid',
      call: (tensor) => sideInject(tensor([1, 9, 4]), tensor([1, 9, 4]), { weight: tensor([4, 1, 3, 3]) }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'grid',
    },
    {
      name: 'a kernel for other channels',
      call: (tensor) =>
        sideInject(tensor([1, 9, 4]), tensor([1, 9, 4]), { weight: tensor([5, 1, 3, 3]), grid: [3, 3] }),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
    },
  ],
});

it('a centred delta makes DTL+ equal to DTL, and θ(0) is exactly 0', async () => {
  const device = await openDevice();
  const [D, shape] = [20, [2, 10, 20]];
  const numbers = (scale: number) => Float32Array.from({ length: 400 }, (_, i) => scale * Math.sin(i * 2.3));
  const [z, h] = [Tensor.from(device, numbers(1), shape), Tensor.from(device, numbers(0.05), shape)];
  const delta = Tensor.from(
    device,
    Float32Array.from({ length: D * 9 }, (_, i) => (i % 9 === 4 ? 1 : 0)),
    [D, 1, 3, 3],
  );
  const dtl = await sideInject(z, h).read();
  expect(await sideInject(z, h, { weight: delta, grid: [3, 3], prefixTokens: 1 }).read()).toEqual(dtl);
  const zero = Tensor.zeros(device, shape);
  expect(await sideInject(z, zero).read()).toEqual(await z.read());
  await device.close();
});

it('writes over z when asked to', async () => {
  const device = await openDevice();
  const z = Tensor.from(device, [1, 2, 3], [1, 3]);
  const h = Tensor.from(device, [1, -1, 0], [1, 3]);
  const apart = (await sideInject(z, h).read()) as Float32Array;
  kernels.sideInjectForward({ z, h, out: z });
  expect(await z.read()).toEqual(apart);
  await device.close();
});

it('NaN stays NaN, forward and in the gradient, on every target', async () => {
  await onEachTarget(async (device) => {
    await scope(async () => {
      const z = Tensor.from(device, [1, 1, 1], [1, 3]);
      const h = Tensor.from(device, [Number.NaN, 1, -1], [1, 3]);
      const { out } = kernels.sideInjectForward({ z, h });
      const { gradH } = kernels.sideInjectBackward({ gradOut: z, h });
      for (const tensor of [out, gradH])
        expect(Array.from(await tensor.read(), Number.isNaN)).toEqual([true, false, false]);
    });
  });
});

// h as a sum of factors; each of them bends θ.
function factorInputs(shape: number[], r: number, count: number): Case['inputs'] {
  const scale = bend / Math.sqrt(r * count);
  const inputs: Case['inputs'] = {};
  for (let j = 0; j < count; j++) {
    inputs[`u${j}`] = { shape: [...shape.slice(0, -1), r], scale };
    inputs[`c${j}`] = [r, shape.at(-1)!];
  }
  return inputs;
}
function lowRankCase(name: string, shape: number[], r: number, count: number, extra: Partial<Case> = {}): Case {
  const { inputs, ...plain } = plainCase(name, shape);
  return { ...plain, inputs: { z: inputs.z!, ...factorInputs(shape, r, count) }, ...extra };
}
function plusLowRankCase(
  name: string,
  [B, P, [rows, columns], D, K]: [number, number, Grid, number, number],
  r = 2,
  count = 3,
): Case {
  const { inputs, ...plain } = plusCase(name, [B, P, [rows, columns], D, K]);
  const factors = factorInputs([B, P + rows * columns, D], r, count);
  return { ...plain, inputs: { z: inputs.z!, weight: inputs.weight!, ...factors } };
}
/** The inputs u0, u1, … or c0, c1, … in order. */
function listed<T>(inputs: Record<string, T>, letter: string): T[] {
  const list: T[] = [];
  for (let j = 0; inputs[`${letter}${j}`]; j++) list.push(inputs[`${letter}${j}`]!);
  return list;
}
const lowRank = (inputs: Record<string, Tensor>, options: object): Tensor =>
  sideInjectLowRank(inputs.z!, listed(inputs, 'u'), listed(inputs, 'c'), { weight: inputs.weight, ...options });
const lowRankReference = (inputs: Record<string, Reference>, options: object): Reference => {
  const h = lowRankCombine(inputs.z!, listed(inputs, 'u'), listed(inputs, 'c'));
  return reference(inputs.z!, h, inputs.weight, options as Parameters<typeof reference>[3]);
};
const factorNames = (count: number): string[] => Array.from({ length: count }, (_, j) => [`u${j}`, `c${j}`]).flat();

kernelTest('side_inject: a low-rank state', {
  cases: [
    lowRankCase('one row', [1, 24], 2, 3),
    lowRankCase('one vector', [20], 2, 3),
    ...[1, 2, 3, 4, 5, 8, 9, 40].map((r) => lowRankCase(`rank ${r}`, [2, 3, 20], r, 3)),
    ...[1, 15, 16, 17, 31, 33].map((d) => lowRankCase(`width ${d}`, [3, d], 2, 3)),
    lowRankCase('197 tokens', [1, 197, 12], 2, 3),
    lowRankCase('ViT-B rows', [1, 3, 768], 2, 3),
    lowRankCase('±1e4 through Swish-100', [4, 20], 2, 3, {
      inputs: {
        z: [4, 20],
        ...factorInputs([4, 20], 2, 3),
        u0: { shape: [4, 2], values: (i) => (i % 2 ? -1 : 1) * 10 ** ((i % 9) - 4) },
      },
      floor: { f32: 2e-2, bf16: 2e-2 },
    }),
  ],
  run: lowRank,
  reference: lowRankReference,
  computeInputs: ['z'],
  differentiable: ['z', ...factorNames(3)],
  tolerance: { f32: { out: 8, grad: 60 }, bf16: { out: 2, grad: 4 } },
  bad: [
    {
      name: 'no factors',
      call: (tensor) => sideInjectLowRank(tensor([2, 8]), [], []),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'u',
    },
    {
      name: 'a u of another rank than c',
      call: (tensor) => sideInjectLowRank(tensor([2, 8]), [tensor([2, 3])], [tensor([2, 8])]),
      code: 'SIDETUNE_SHAPE',
      argument: 'u',
    },
    {
      name: 'a u with other rows than z',
      call: (tensor) =>
        sideInjectLowRank(tensor([2, 8]), [tensor([2, 2]), tensor([3, 2])], [tensor([2, 8]), tensor([2, 8])]),
      code: 'SIDETUNE_SHAPE',
      argument: 'u',
    },
    {
      name: 'one c for two u',
      call: (tensor) => sideInjectLowRank(tensor([2, 8]), [tensor([2, 2]), tensor([2, 2])], [tensor([2, 8])]),
      code: 'SIDETUNE_SHAPE',
      argument: 'c',
    },
    {
      name: 'u in bf16',
      call: (tensor) => sideInjectLowRank(tensor([2, 8]), [tensor([2, 2], 'bf16')], [tensor([2, 8])]),
      code: 'SIDETUNE_DTYPE',
      argument: 'u',
    },
  ],
});

kernelTest('side_inject: a low-rank state, DTL+', {
  cases: [
    ...[1, 2, 3, 4, 5, 7].map((K) => plusLowRankCase(`kernel of ${K}`, [1, 1, [3, 9], 5, K])),
    ...[1, 15, 16, 17, 31, 33].map((D) => plusLowRankCase(`${D} channels`, [1, 1, [2, 3], D, 3])),
    ...[1, 3, 9].map((r) => plusLowRankCase(`rank ${r}`, [2, 1, [2, 3], 8, 3], r)),
    plusLowRankCase('a grid of one', [2, 1, [1, 1], 6, 3]),
    plusLowRankCase('one column', [1, 2, [6, 1], 4, 4]),
    plusLowRankCase('three images', [3, 1, [3, 2], 7, 5]),
    plusLowRankCase('14 × 14 and CLS', [1, 1, [14, 14], 2, 3]),
    plusLowRankCase('many images and channels', [6, 1, [2, 2], 100, 3]),
    // Beyond what a block's shared memory holds at once.
    plusLowRankCase('a grid in several tiles', [1, 1, [50, 50], 4, 3], 1),
  ],
  run: lowRank,
  reference: lowRankReference,
  computeInputs: ['z'],
  differentiable: ['z', 'weight', ...factorNames(3)],
  tolerance: { f32: { out: 12, grad: 60 }, bf16: { out: 2, grad: 4 } },
  bad: [
    {
      name: 'a grid that does not fit the tokens',
      call: (tensor) =>
        sideInjectLowRank(tensor([1, 10, 4]), [tensor([1, 10, 2])], [tensor([2, 4])], {
          weight: tensor([4, 1, 3, 3]),
          grid: [3, 4],
          prefixTokens: 1,
        }),
      code: 'SIDETUNE_SHAPE',
      message: /prefixTokens \+ grid/,
    },
  ],
});

describe('a low-rank state', () => {
  const [shape, r] = [[2, 10, 20], 2];
  const plus = { grid: [3, 3] as [number, number], prefixTokens: 1 };

  /** The result and all gradients; of the one call, or of h formed in memory and then injected. */
  async function run(device: Device, count: number, formed: boolean, weighted: boolean): Promise<number[][]> {
    const make = (shape: number[], seed: number, scale = 1): Tensor => {
      const length = shape.reduce((product, n) => product * n, 1);
      return Tensor.from(
        device,
        Float32Array.from({ length }, (_, i) => scale * Math.sin(i * 2.3 + seed)),
        shape,
      );
    };
    const z = make(shape, 1);
    const us = Array.from({ length: count }, (_, j) => make([2, 10, r], 3 + j, bend / Math.sqrt(count)));
    const cs = Array.from({ length: count }, (_, j) => make([r, 20], 100 + j));
    const weight = weighted ? make([20, 1, 3, 3], 9, 0.3) : undefined;
    const options = weight ? { weight, ...plus } : {};
    const tape = new Tape();
    const watched = [z, ...us, ...cs, ...(weight ? [weight] : [])];
    for (const tensor of watched) tape.watch(tensor);
    const out = tape.run(() => {
      if (!formed) return sideInjectLowRank(z, us, cs, options);
      return sideInject(z, lowRankCombine_(Tensor.empty(device, shape), us, cs), options);
    });
    const results = [await out.read()];
    tape.seed(out, make(shape, 10));
    tape.backward();
    for (const tensor of watched) {
      using gradient = tape.takeGradient(tensor);
      results.push(await gradient.read());
    }
    return results.map((values) => Array.from(values as Float32Array));
  }

  // 70 blocks are more than a CUDA launch takes.
  it.each([
    ['DTL', 3, false],
    ['DTL+', 3, true],
    ['DTL of 70 blocks', 70, false],
    ['DTL+ of 70 blocks', 70, true],
  ])('%s: what h gives when it is formed', async (_, count, weighted) => {
    await onEachTarget(async (device) => {
      await scope(async () => {
        const [one, formed] = [await run(device, count, false, weighted), await run(device, count, true, weighted)];
        for (const [index, values] of one.entries()) {
          const largest = Math.max(...formed[index]!.map(Math.abs));
          for (const [i, value] of values.entries())
            expect(Math.abs(value - formed[index]![i]!), `result ${index}`).toBeLessThanOrEqual(2e-5 * largest);
        }
      });
    });
  });

  it('nothing is kept where nothing of it needs a gradient', async () => {
    const device = await openDevice();
    const [z, u, c] = [
      [1, 4],
      [1, 2],
      [2, 4],
    ].map((shape) => Tensor.zeros(device, shape)) as [Tensor, Tensor, Tensor];
    const tape = new Tape();
    tape.watch(z);
    const out = tape.run(() => sideInjectLowRank(z, [u], [c]));
    expect(tape.report()).toEqual([]);
    tape.seed(out, Tensor.zeros(device, [1, 4]));
    tape.backward();
    expect(tape.reached(z)).toBe(true);
    await device.close();
  });
});
