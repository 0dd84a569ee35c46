import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import type { Device } from '../../lib/device';
import { kernels } from '../../lib/kernels';
import { add, lowRankCombine_, sideInject, sideStep_ } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { onEachTarget, openDevice } from '../each_target';
import { type Case, type Golden, kernelTest } from '../kernel_test';
import { reference as array, type Reference } from '../reference/array';
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

// A step is h + u c, and then inject; u c bends θ, too.
const stepInputs = (shape: number[], r: number): Case['inputs'] => ({
  u: { shape: [...shape.slice(0, -1), r], scale: bend },
  c: [r, shape.at(-1)!],
});
function stepCase(name: string, shape: number[], r: number, extra: Partial<Case> = {}): Case {
  const { inputs, ...plain } = plainCase(name, shape);
  return { ...plain, inputs: { ...inputs, ...stepInputs(shape, r) }, keeps: () => 0, ...extra };
}
function plusStepCase(
  name: string,
  [B, P, [rows, columns], D, K]: [number, number, Grid, number, number],
  r = 2,
): Case {
  const { inputs, ...plain } = plusCase(name, [B, P, [rows, columns], D, K]);
  return { ...plain, inputs: { ...inputs, ...stepInputs([B, P + rows * columns, D], r) } };
}

let after: Tensor | undefined;
const stepped = ({ z, h, u, c, weight }: Record<string, Tensor>, options: object): Tensor => {
  const result = sideStep_(z!, h!, u!, c!, { weight, ...options });
  after = result.h;
  return result.out;
};
const cleanUp = (): void => after?.dispose();

const changed = ({ h, u, c }: Record<string, Reference>): Reference => {
  const change = lowRankCombine(h!, [u!], [c!]);
  return array(h!.shape, (i) => h!.data[i]! + change.data[i]!);
};

kernelTest('side_inject: step', {
  cases: [
    stepCase('one row', [1, 24], 2),
    stepCase('one vector', [20], 2),
    ...[1, 2, 3, 4, 5, 8, 9, 40].map((r) => stepCase(`rank ${r}`, [2, 3, 20], r)),
    ...[1, 15, 16, 17, 31, 33].map((d) => stepCase(`width ${d}`, [3, d], 2)),
    stepCase('197 tokens', [1, 197, 12], 2),
    stepCase('ViT-B rows', [1, 3, 768], 2),
    stepCase('±1e4 through Swish-100', [4, 20], 2, {
      inputs: {
        ...stepInputs([4, 20], 2),
        z: [4, 20],
        h: { shape: [4, 20], values: (i) => (i % 2 ? -1 : 1) * 10 ** ((i % 9) - 4) },
      },
      floor: { f32: 2e-2, bf16: 2e-2 },
    }),
  ],
  run: stepped,
  cleanUp,
  reference: (inputs, options) => reference(inputs.z!, changed(inputs), undefined, options),
  computeInputs: ['z'],
  differentiable: ['z', 'h', 'u', 'c'],
  inPlace: ['h'],
  tolerance: { f32: { out: 8, grad: 60 }, bf16: { out: 2, grad: 4 } },
  bad: [
    {
      name: 'u of another rank than c',
      call: (tensor) => sideStep_(tensor([2, 8]), tensor([2, 8]), tensor([2, 3]), tensor([2, 8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'c',
    },
    {
      name: 'u with other rows than h',
      call: (tensor) => sideStep_(tensor([2, 8]), tensor([2, 8]), tensor([3, 2]), tensor([2, 8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'u',
    },
    {
      name: 'h in bf16',
      call: (tensor) => sideStep_(tensor([2, 8]), tensor([2, 8], 'bf16'), tensor([2, 2]), tensor([2, 8])),
      code: 'SIDETUNE_DTYPE',
      argument: 'h',
    },
    {
      name: 'z and h in one buffer',
      call: (tensor) => {
        const h = tensor([2, 8]);
        return sideStep_(h, h, tensor([2, 2]), tensor([2, 8]));
      },
      code: 'SIDETUNE_SHAPE',
      message: /overlaps/,
    },
  ],
});

kernelTest('side_inject: step, DTL+', {
  cases: [
    ...[1, 2, 3, 4, 5, 7].map((K) => plusStepCase(`kernel of ${K}`, [1, 1, [3, 9], 5, K])),
    ...[1, 15, 16, 17, 31, 33].map((D) => plusStepCase(`${D} channels`, [1, 1, [2, 3], D, 3])),
    ...[1, 3, 9].map((r) => plusStepCase(`rank ${r}`, [2, 1, [2, 3], 8, 3], r)),
    plusStepCase('a grid of one', [2, 1, [1, 1], 6, 3]),
    plusStepCase('one column', [1, 2, [6, 1], 4, 4]),
    plusStepCase('three images', [3, 1, [3, 2], 7, 5]),
    plusStepCase('14 × 14 and CLS', [1, 1, [14, 14], 2, 3]),
    plusStepCase('many images and channels', [6, 1, [2, 2], 100, 3]),
    // Beyond what a block's shared memory holds at once.
    plusStepCase('a grid in several tiles', [1, 1, [50, 50], 4, 3]),
  ],
  run: stepped,
  cleanUp,
  reference: (inputs, options) => reference(inputs.z!, changed(inputs), inputs.weight, options),
  computeInputs: ['z'],
  differentiable: ['z', 'h', 'u', 'c', 'weight'],
  inPlace: ['h'],
  tolerance: { f32: { out: 12, grad: 60 }, bf16: { out: 2, grad: 4 } },
  bad: [
    {
      name: 'a grid that does not fit the tokens',
      call: (tensor) =>
        sideStep_(tensor([1, 10, 4]), tensor([1, 10, 4]), tensor([1, 10, 2]), tensor([2, 4]), {
          weight: tensor([4, 1, 3, 3]),
          grid: [3, 4],
          prefixTokens: 1,
        }),
      code: 'SIDETUNE_SHAPE',
      message: /prefixTokens \+ grid/,
    },
  ],
});

describe('a side network of three blocks', () => {
  const [shape, r] = [[2, 10, 20], 2];
  const numbers = (count: number, seed: number, scale: number) =>
    Float32Array.from({ length: count }, (_, i) => scale * Math.sin(i * 2.3 + seed));
  const maker =
    (device: Device) =>
    (shape: number[], seed: number, scale = 1): Tensor =>
      Tensor.from(
        device,
        numbers(
          shape.reduce((p, n) => p * n, 1),
          seed,
          scale,
        ),
        shape,
      );
  const plus = { grid: [3, 3] as [number, number], prefixTokens: 1 };

  /** h after each block, what comes out, and the gradients; of `one` call for a block or of the calls that it stands for. */
  async function run(device: Device, one: boolean, weighted: boolean): Promise<number[][]> {
    const make = maker(device);
    const [z, h] = [make(shape, 1), make(shape, 2, bend)];
    const us = [0, 1, 2].map((j) => make([2, 10, r], 3 + j, bend));
    const cs = [0, 1, 2].map((j) => make([r, 20], 6 + j));
    const weight = weighted ? make([20, 1, 3, 3], 9, 0.3) : undefined;
    const options = weight ? { weight, ...plus } : {};
    const before = await h.read();
    const tape = new Tape();
    const watched = [z, h, ...us, ...cs, ...(weight ? [weight] : [])];
    for (const tensor of watched) tape.watch(tensor);
    const states: Promise<ArrayLike<number>>[] = [];
    const out = tape.run(() => {
      let [tokens, state] = [z, h];
      for (const [j, u] of us.entries()) {
        if (one) {
          ({ out: tokens, h: state } = sideStep_(tokens, state, u, cs[j]!, options));
        } else {
          state = add(state, lowRankCombine_(Tensor.zeros(device, shape), [u], [cs[j]!]));
          tokens = sideInject(tokens, state, options);
        }
        states.push(state.read());
      }
      return tokens;
    });
    const results = [await out.read(), ...(await Promise.all(states))];
    tape.seed(out, make(shape, 10));
    tape.backward();
    for (const tensor of watched) {
      using gradient = tape.takeGradient(tensor);
      results.push(await gradient.read());
    }
    if (one) {
      // Backward has walked h back.
      const drift = Array.from((await h.read()) as Float32Array, (value, i) => Math.abs(value - (before[i] as number)));
      expect(Math.max(...drift)).toBeLessThanOrEqual(6 * 2 ** -24);
    }
    return results.map((values) => Array.from(values as Float32Array));
  }

  it.each([
    ['DTL', false],
    ['DTL+', true],
  ])('%s: what the single calls give', async (_, weighted) => {
    await onEachTarget(async (device) => {
      await scope(async () => {
        const [one, apart] = [await run(device, true, weighted), await run(device, false, weighted)];
        for (const [index, values] of one.entries()) {
          const largest = Math.max(...apart[index]!.map(Math.abs));
          for (const [i, value] of values.entries())
            expect(Math.abs(value - apart[index]![i]!), `result ${index}`).toBeLessThanOrEqual(2e-5 * largest);
        }
      });
    });
  });

  it('a reader between two steps sees h as it was, and one whose result nobody reads costs nothing', async () => {
    const device = await openDevice();
    const gradient = async (unread: boolean): Promise<ArrayLike<number>> => {
      const make = maker(device);
      const [z, h, u, c] = [make(shape, 1), make(shape, 2, bend), make([2, 10, r], 3, bend), make([r, 20], 4)];
      const tape = new Tape();
      for (const tensor of [h, u]) tape.watch(tensor);
      const out = tape.run(() => {
        const first = sideStep_(z, h, u, c);
        const injected = sideInject(z, first.h);
        // Its h goes on, or nothing of it.
        if (unread) sideStep_(z, first.h, u, c);
        return injected;
      });
      tape.seed(out, make(shape, 5));
      tape.backward();
      return tape.takeGradient(u).read();
    };
    const [alone, followed] = [await gradient(false), await gradient(true)];
    for (let i = 0; i < alone.length; i++) expect(followed[i]).toBeCloseTo(alone[i]!, 4);
    await device.close();
  });

  it('h alone is read: its gradient goes back through the change', async () => {
    const device = await openDevice();
    const make = maker(device);
    const [z, h, u, c] = [make(shape, 1), make(shape, 2), make([2, 10, r], 3), make([r, 20], 4)];
    const cotangent = make(shape, 5);
    const tape = new Tape();
    for (const tensor of [h, u]) tape.watch(tensor);
    const { h: after } = tape.run(() => sideStep_(z, h, u, c));
    tape.seed(after, cotangent);
    tape.backward();
    expect(await tape.takeGradient(h).read()).toEqual(await cotangent.read());
    const gradU = (await tape.takeGradient(u).read()) as Float32Array;
    const [g, factors] = [(await cotangent.read()) as Float32Array, (await c.read()) as Float32Array];
    let expected = 0;
    for (let i = 0; i < 20; i++) expected += g[i]! * factors[i]!;
    expect(gradU[0]).toBeCloseTo(expected, 4);
    await device.close();
  });
});
