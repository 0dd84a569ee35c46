import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import type { Device } from '../../lib/device';
import { DisposedError } from '../../lib/errors';
import { kernels } from '../../lib/kernels';
import { lowRankAccumulate_, lowRankCombine_, lowRankProject, sideInject } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { type DType, Tensor } from '../../lib/tensor';
import { difference, epsilon } from '../compare';
import { onCpu, onEachTarget, openDevice } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { Random } from '../random';
import * as reference from '../reference/low_rank';

// r f32 numbers a row beside z.
function lowRankCase(name: string, shape: number[], r: number, extra: Partial<Case> = {}): Case {
  const d = shape.at(-1)!;
  const rows = shape.reduce((product, length) => product * length, 1) / d;
  return {
    name,
    inputs: {
      h: shape,
      z: shape,
      a: { shape: [d, r], scale: 1 / Math.sqrt(d) },
      c: { shape: [r, d], scale: r > 16 ? 1 / Math.sqrt(r) : 1 },
    },
    options: { initialize: false },
    keeps: () => rows * r * 4,
    ...extra,
  };
}

kernelTest('low_rank', {
  goldens: ['low_rank_accumulate_2x17x24_r2', 'low_rank_accumulate_1x5x768_r4'].map((file) => ({
    file,
    inputs: { h: 'h', z: 'z', a: 'a', c: 'c' },
    output: 'h_next',
  })),
  cases: [
    lowRankCase('one row', [1, 24], 2),
    ...[1, 2, 3, 4, 5, 8, 9].map((r) => lowRankCase(`rank ${r}`, [2, 3, 20], r)),
    ...[1, 15, 16, 17, 31, 33].map((d) => lowRankCase(`width ${d}`, [3, d], 2)),
    lowRankCase('197 tokens', [1, 197, 12], 2),
    lowRankCase('ViT-B rows', [1, 3, 768], 2),
    // Ranks in several batches, and beyond what a GPU keeps in shared memory.
    ...[20, 40, 300].map((r) => lowRankCase(`rank ${r}`, [2, 3, 20], r)),
    lowRankCase('rank 40 in rows of several warps', [3, 160], 40),
    // More vectors than a block has threads. a is small: sums of so many numbers are not as exact as the others.
    ...[1028, 2052].map((d) => {
      const inputs = { h: [9, d], z: [9, d], a: { shape: [d, 9], scale: 0.05 / Math.sqrt(d) }, c: [9, d] };
      return lowRankCase(`width ${d}`, [9, d], 9, { inputs });
    }),
    lowRankCase('zeros', [3, 24], 2, {
      inputs: { h: [3, 24], z: { shape: [3, 24], values: () => 0 }, a: [24, 2], c: [2, 24] },
      degenerate: true,
    }),
    lowRankCase('large numbers', [3, 24], 2, {
      inputs: { h: { shape: [3, 24], scale: 1e4 }, z: { shape: [3, 24], scale: 1e4 }, a: [24, 2], c: [2, 24] },
    }),
  ],
  run: ({ h, z, a, c }, options) => lowRankAccumulate_(h!, z!, a!, c!, options),
  reference: ({ h, z, a, c }, { initialize }) => reference.lowRankAccumulate(h!, z!, a!, c!, initialize),
  computeInputs: ['z'],
  differentiable: ['h', 'z', 'a', 'c'],
  inPlace: ['h'],
  outputDtype: 'f32',
  // Sums of d numbers in lanes; gradients of a and c are sums over rows. z and its gradient alone are bf16.
  tolerance: { f32: { out: 16, grad: 60 }, bf16: { out: 1, grad: 3 } },
  bad: [
    {
      name: 'h in bf16',
      call: (tensor) => lowRankAccumulate_(tensor([2, 8], 'bf16'), tensor([2, 8]), tensor([8, 2]), tensor([2, 8])),
      code: 'SIDETUNE_DTYPE',
      argument: 'h',
      message: /'h' is bf16, expected f32/,
    },
    {
      name: 'z of another shape',
      call: (tensor) => lowRankAccumulate_(tensor([2, 8]), tensor([3, 8]), tensor([8, 2]), tensor([2, 8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'z',
    },
    {
      name: 'a and c of different ranks',
      call: (tensor) => lowRankAccumulate_(tensor([2, 8]), tensor([2, 8]), tensor([8, 2]), tensor([3, 8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'c',
      message: /expected \[r, d\] = \[2, 8\]/,
    },
    {
      name: 'h and z in one buffer',
      call: (tensor) => {
        const h = tensor([2, 8]);
        return lowRankAccumulate_(h, h, tensor([8, 2]), tensor([2, 8]));
      },
      code: 'SIDETUNE_SHAPE',
      message: /overlaps/,
    },
  ],
});

function projectCase(name: string, shape: number[], r: number, extra: Partial<Case> = {}): Case {
  const d = shape.at(-1)!;
  return {
    name,
    inputs: { z: shape, a: { shape: [d, r], scale: 1 / Math.sqrt(d) } },
    keeps: () => 0, // z alone
    ...extra,
  };
}

kernelTest('low_rank: project', {
  cases: [
    projectCase('one row', [1, 24], 2),
    projectCase('one vector', [20], 2),
    ...[1, 2, 3, 4, 5, 8, 9].map((r) => projectCase(`rank ${r}`, [2, 3, 20], r)),
    ...[1, 15, 16, 17, 31, 33].map((d) => projectCase(`width ${d}`, [3, d], 2)),
    projectCase('197 tokens', [1, 197, 12], 2),
    projectCase('ViT-B rows', [1, 3, 768], 2),
    ...[40, 300].map((r) => projectCase(`rank ${r}`, [2, 3, 20], r)),
    ...[1028, 2052].map((d) => projectCase(`width ${d}`, [9, d], 9, { floor: { f32: 3e-6, bf16: 1e-2 } })),
    projectCase('zeros', [3, 24], 2, {
      inputs: { z: { shape: [3, 24], values: () => 0 }, a: [24, 2] },
      degenerate: true,
    }),
    projectCase('large numbers', [3, 24], 2, { inputs: { z: { shape: [3, 24], scale: 1e4 }, a: [24, 2] } }),
  ],
  run: ({ z, a }) => lowRankProject(z!, a!),
  reference: ({ z, a }) => reference.lowRankProject(z!, a!),
  computeInputs: ['z'],
  differentiable: ['z', 'a'],
  outputDtype: 'f32',
  // As for the whole side layer; z and its gradient alone are bf16.
  tolerance: { f32: { out: 16, grad: 60 }, bf16: { out: 1, grad: 3 } },
  bad: [
    {
      name: 'a of another width',
      call: (tensor) => lowRankProject(tensor([2, 8]), tensor([9, 2])),
      code: 'SIDETUNE_SHAPE',
      argument: 'a',
    },
    {
      name: 'a in bf16',
      call: (tensor) => lowRankProject(tensor([2, 8]), tensor([8, 2], 'bf16')),
      code: 'SIDETUNE_DTYPE',
      argument: 'a',
    },
    {
      name: 'z without dimensions',
      call: (tensor) => lowRankProject(tensor([]), tensor([8, 2])),
      code: 'SIDETUNE_SHAPE',
      argument: 'z',
    },
  ],
});

// Lists of three blocks.
const [uNames, cNames] = [
  ['u0', 'u1', 'u2'],
  ['c0', 'c1', 'c2'],
];
const three = <T>(inputs: Record<string, T>, names: string[]): T[] => names.map((name) => inputs[name]!);

function combineCase(name: string, shape: number[], r: number, extra: Partial<Case> = {}): Case {
  const inputs: Case['inputs'] = { h: shape };
  for (const u of uNames) inputs[u] = [...shape.slice(0, -1), r];
  for (const c of cNames) inputs[c] = [r, shape.at(-1)!];
  return { name, inputs, keeps: () => 0, only: 'f32', ...extra };
}

kernelTest('low_rank: combine', {
  cases: [
    combineCase('one row', [1, 24], 2),
    combineCase('one vector', [20], 2),
    ...[1, 2, 3, 4, 5].map((r) => combineCase(`rank ${r}`, [2, 3, 20], r)),
    ...[1, 15, 16, 17, 31, 33].map((d) => combineCase(`width ${d}`, [3, d], 2)),
    combineCase('197 tokens', [1, 197, 12], 2),
    combineCase('rows in several groups', [2, 200, 12], 1),
    combineCase('ViT-B rows', [1, 3, 768], 2),
    combineCase('rank 100', [2, 3, 8], 100),
    combineCase('width 2052', [9, 2052], 4),
  ],
  run: (inputs) => lowRankCombine_(inputs.h!, three(inputs, uNames), three(inputs, cNames)),
  reference: (inputs) => reference.lowRankCombine(inputs.h!, three(inputs, uNames), three(inputs, cNames)),
  computeInputs: [],
  differentiable: [...uNames, ...cNames],
  inPlace: ['h'],
  outputDtype: 'f32',
  // Sums of 3 r numbers; gradients of u are sums of d in lanes, those of c sums over rows.
  tolerance: { f32: { out: 16, grad: 60 }, bf16: { out: 16, grad: 60 } },
  bad: [
    {
      name: 'no blocks',
      call: (tensor) => lowRankCombine_(tensor([2, 8]), [], []),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'u',
      message: /empty list/,
    },
    {
      name: 'fewer c than u',
      call: (tensor) => lowRankCombine_(tensor([2, 8]), [tensor([2, 2]), tensor([2, 2])], [tensor([2, 8])]),
      code: 'SIDETUNE_SHAPE',
      argument: 'c',
      message: /has 1 tensor, expected 2 like 'u'/,
    },
    {
      name: 'u with other rows than h',
      call: (tensor) =>
        lowRankCombine_(tensor([2, 8]), [tensor([2, 2]), tensor([3, 2])], [tensor([2, 8]), tensor([2, 8])]),
      code: 'SIDETUNE_SHAPE',
      argument: 'u',
      message: /\[3, 2\] at 1, expected \[2, 2\]/,
    },
    {
      name: 'u of another rank than c',
      call: (tensor) => lowRankCombine_(tensor([2, 8]), [tensor([2, 3])], [tensor([2, 8])]),
      code: 'SIDETUNE_SHAPE',
      argument: 'u',
    },
    {
      name: 'u of fewer dimensions than h',
      call: (tensor) => lowRankCombine_(tensor([2, 3, 8]), [tensor([6, 2])], [tensor([2, 8])]),
      code: 'SIDETUNE_SHAPE',
      argument: 'u',
    },
    {
      name: 'c of another width than h',
      call: (tensor) => lowRankCombine_(tensor([2, 8]), [tensor([2, 2])], [tensor([2, 9])]),
      code: 'SIDETUNE_SHAPE',
      argument: 'c',
    },
    {
      name: 'c of two ranks',
      call: (tensor) =>
        lowRankCombine_(tensor([2, 8]), [tensor([2, 2]), tensor([2, 2])], [tensor([2, 8]), tensor([3, 8])]),
      code: 'SIDETUNE_SHAPE',
      argument: 'c',
    },
    {
      name: 'h in bf16',
      call: (tensor) => lowRankCombine_(tensor([2, 8], 'bf16'), [tensor([2, 2])], [tensor([2, 8])]),
      code: 'SIDETUNE_DTYPE',
      argument: 'h',
    },
    {
      name: 'u in bf16',
      call: (tensor) => lowRankCombine_(tensor([2, 8]), [tensor([2, 2], 'bf16')], [tensor([2, 8])]),
      code: 'SIDETUNE_DTYPE',
      argument: 'u',
    },
    {
      name: 'h and a c in one buffer',
      call: (tensor) => {
        const h = tensor([2, 8]);
        return lowRankCombine_(h, [tensor([2, 2])], [h]);
      },
      code: 'SIDETUNE_SHAPE',
      message: /overlaps/,
    },
    {
      name: 'gradients of fewer blocks than there are',
      call: (tensor) =>
        kernels.lowRankCombineBackward({
          gradH: tensor([2, 8]),
          u: [tensor([2, 2]), tensor([2, 2])],
          c: [tensor([2, 8]), tensor([2, 8])],
          gradC: [tensor([2, 8])],
        }),
      code: 'SIDETUNE_SHAPE',
      argument: 'gradC',
    },
    {
      name: 'gradients of u with other rows',
      call: (tensor) =>
        kernels.lowRankCombineBackward({
          gradH: tensor([2, 8]),
          u: [tensor([2, 2])],
          c: [tensor([2, 8])],
          gradU: [tensor([3, 2])],
        }),
      code: 'SIDETUNE_SHAPE',
      argument: 'gradU',
    },
  ],
});

async function numbers(tensor: Tensor): Promise<number[]> {
  return Array.from((await tensor.read()) as Float32Array);
}

function draw(device: Device, shape: number[], seed: number, dtype: DType = 'f32'): Tensor {
  const random = new Random(seed);
  return Tensor.from(
    device,
    Float32Array.from({ length: shape.reduce((p, n) => p * n, 1) }, () => random.normal()),
    shape,
    { dtype },
  );
}

describe('in place', () => {
  const [rows, d, r, layers] = [7, 24, 2, 12];

  it('initialize does not read what h held', async () => {
    const device = await openDevice();
    const [z, a, c] = [draw(device, [rows, d], 1), draw(device, [d, r], 2), draw(device, [r, d], 3)];
    const poisoned = Tensor.from(device, new Float32Array(rows * d).fill(Number.NaN), [rows, d]);
    const zeros = Tensor.zeros(device, [rows, d]);
    lowRankAccumulate_(poisoned, z, a, c, { initialize: true });
    lowRankAccumulate_(zeros, z, a, c);
    expect(await numbers(poisoned)).toEqual(await numbers(zeros));
    await device.close();
  });

  it('walked back over twelve layers, h drifts by roundings only', async () => {
    const device = await openDevice();
    const h = draw(device, [rows, d], 9);
    const before = await numbers(h);
    const steps = Array.from({ length: layers }, (_, i) => {
      const [z, a, c] = [
        draw(device, [rows, d], 3 * i),
        draw(device, [d, r], 3 * i + 1),
        draw(device, [r, d], 3 * i + 2),
      ];
      const { u } = kernels.lowRankAccumulateForward({ h, z, a, c }, { save: true });
      return { u: u!, c };
    });
    const largest = Math.max(...(await numbers(h)).map(Math.abs));
    for (const { u, c } of steps.reverse()) kernels.lowRankUndo({ h, u, c });
    const after = await numbers(h);
    // One rounding of h, at its largest, for each way of each layer.
    for (const [i, value] of after.entries())
      expect(Math.abs(value - before[i]!)).toBeLessThanOrEqual(2 * layers * largest * 2 ** -24);
    await device.close();
  });

  it('backward of an earlier reader sees h as it was; a foreign change is refused', async () => {
    const device = await openDevice();
    const make = () => ({
      h: draw(device, [rows, d], 1),
      z: draw(device, [rows, d], 2),
      a: draw(device, [d, r], 3),
      c: draw(device, [r, d], 4),
    });
    const gradient = async (between: (h: Tensor, z: Tensor, a: Tensor, c: Tensor) => void): Promise<number[]> => {
      const { h, z, a, c } = make();
      const tape = new Tape();
      tape.watch(h);
      const out = tape.run(() => {
        const injected = sideInject(z, h, { beta: 3 });
        between(h, z, a, c);
        return injected;
      });
      const cotangent = draw(device, [rows, d], 5);
      tape.seed(out, cotangent);
      tape.backward();
      return numbers(tape.takeGradient(h));
    };
    const plain = await gradient(() => undefined);
    const walked = await gradient((h, z, a, c) => void lowRankAccumulate_(h, z, a, c));
    for (const [i, value] of walked.entries()) expect(value).toBeCloseTo(plain[i]!, 4);
    await expect(gradient((h) => h.write(new Float32Array(rows * d)))).rejects.toThrow(DisposedError);
    await expect(gradient((h) => h.write(new Float32Array(rows * d)))).rejects.toMatchObject({
      code: 'SIDETUNE_MODIFIED',
      argument: 'h',
    });
    await device.close();
  });
});

describe('many blocks at once', () => {
  const [rows, d, r] = [37, 20, 2];
  const make = (device: Device, blocks: number, dtype: DType) => {
    const list = (shape: number[], seed: number, type: DType = 'f32'): Tensor[] =>
      Array.from({ length: blocks }, (_, j) => draw(device, shape, seed + j, type));
    return {
      z: list([rows, d], 100, dtype),
      a: list([d, r], 200),
      c: list([r, d], 300),
      cotangent: draw(device, [rows, d], 400),
    };
  };

  async function run(
    device: Device,
    blocks: number,
    dtype: DType,
    body: (h: Tensor, inputs: ReturnType<typeof make>) => Tensor,
  ): Promise<number[][]> {
    const inputs = make(device, blocks, dtype);
    const watched = [...inputs.z, ...inputs.a, ...inputs.c];
    const tape = new Tape();
    for (const tensor of watched) tape.watch(tensor);
    const h = Tensor.from(device, new Float32Array(rows * d).fill(Number.NaN), [rows, d]);
    const out = tape.run(() => body(h, inputs));
    const results = [await numbers(out)];
    tape.seed(out, inputs.cotangent);
    tape.backward();
    for (const tensor of watched) {
      using gradient = tape.takeGradient(tensor);
      results.push(await numbers(gradient));
    }
    return results;
  }

  // 70 are more than one launch takes on a GPU.
  it.each([
    [7, 'f32'],
    [7, 'bf16'],
    [70, 'f32'],
  ] as const)('what one accumulate after the other gives, %i blocks, %s', async (blocks, dtype) => {
    await onEachTarget(async (device) => {
      await scope(async () => {
        const [h, ...grads] = await run(device, blocks, dtype, (start, { z, a, c }) =>
          lowRankCombine_(
            start,
            z.map((one, j) => lowRankProject(one, a[j]!)),
            c,
          ),
        );
        const [expectedH, ...expectedGrads] = await run(device, blocks, dtype, (start, { z, a, c }) =>
          z.reduce((sum, one, j) => lowRankAccumulate_(sum, one, a[j]!, c[j]!, { initialize: j === 0 }), start),
        );
        // h is summed in another order; so are the rows of gradC on a GPU.
        expect(difference(h!, expectedH!, { roundings: blocks * r, epsilon: epsilon.f32 })).toBeNull();
        const inBits = onCpu ? grads.length : 2 * blocks;
        expect(grads.slice(0, inBits)).toEqual(expectedGrads.slice(0, inBits));
        for (const [j, gradC] of grads.slice(inBits).entries())
          expect(difference(gradC, expectedGrads[inBits + j]!, { roundings: rows, epsilon: epsilon.f32 })).toBeNull();
      });
    });
  });
});

// Factors that do not fit into a GPU's shared memory, for each number of ranks that it works off at a time.
it.each([
  [30_000, 1],
  [16_000, 2],
  [8_000, 4],
  [4_000, 8],
  [8_001, 2],
])('one row of %i, rank %i', async (d, r) => {
  await onEachTarget(async (device) => {
    await scope(async () => {
      const small = 1 / Math.sqrt(d);
      const f32 = (count: number, f: (i: number) => number) => Float32Array.from({ length: count }, (_, i) => f(i));
      const [z, h, gradH] = [f32(d, (i) => Math.sin(i)), f32(d, (i) => Math.cos(i)), f32(d, (i) => Math.sin(3 * i))];
      const [a, c] = [f32(d * r, (i) => small * Math.cos(2 * i)), f32(r * d, (i) => small * Math.sin(5 * i))];
      const ranks = Array.from({ length: r }, (_, j) => j);
      const sum = (count: number, f: (i: number) => number): number => {
        let total = 0;
        for (let i = 0; i < count; i++) total += f(i);
        return total;
      };
      const u = ranks.map((j) => sum(d, (i) => z[i]! * a[i * r + j]!));
      const gu = ranks.map((j) => sum(d, (i) => gradH[i]! * c[j * d + i]!));
      const added = f32(d, (i) => sum(r, (j) => u[j]! * c[j * d + i]!));
      const close = async (what: string, actual: Tensor, expected: Float32Array): Promise<void> => {
        const bound = { roundings: 40, epsilon: epsilon.f32, floor: 1e-5 };
        expect(difference(await numbers(actual), expected, bound), what).toBeNull();
      };
      const on = (data: Float32Array, shape: number[]): Tensor => Tensor.from(device, data, shape);
      const [zs, as, cs, gs] = [on(z, [1, d]), on(a, [d, r]), on(c, [r, d]), on(gradH, [1, d])];
      const hs = on(h, [1, d]);
      const saved = kernels.lowRankAccumulateForward({ h: hs, z: zs, a: as, c: cs }, { save: true }).u!;
      await close('u', saved, Float32Array.from(u));
      await close(
        'h',
        hs,
        f32(d, (i) => h[i]! + added[i]!),
      );
      kernels.lowRankUndo({ h: hs, u: saved, c: cs });
      await close('h undone', hs, h);
      await close('u alone', kernels.lowRankProjectForward({ z: zs, a: as }).u!, Float32Array.from(u));
      const [gradA, gradC] = [Tensor.zeros(device, [d, r]), Tensor.zeros(device, [r, d])];
      const wantA = f32(d * r, (i) => z[Math.floor(i / r)]! * gu[i % r]!);
      const wantZ = f32(d, (i) => sum(r, (j) => gu[j]! * a[i * r + j]!));
      const inputs = { z: zs, a: as };
      const back = kernels.lowRankAccumulateBackward({ ...inputs, gradH: gs, c: cs, u: saved, gradA, gradC });
      await close('gradZ', back.gradZ!, wantZ);
      await close('gradA', gradA, wantA);
      await close(
        'gradC',
        gradC,
        f32(r * d, (i) => u[Math.floor(i / d)]! * gradH[i % d]!),
      );
      const gradU = on(Float32Array.from(gu), [1, r]);
      await close('gradZ of u', kernels.lowRankProjectBackward({ ...inputs, gradU }).gradZ!, wantZ);
      // Rank by rank as blocks of the network.
      const list = <T>(make: (j: number) => T): T[] => ranks.map(make);
      const us = list((j) => on(Float32Array.of(u[j]!), [1, 1]));
      const rows = list((j) => on(c.slice(j * d, (j + 1) * d), [1, d]));
      const combined = Tensor.empty(device, [1, d]);
      kernels.lowRankCombineForward({ h: combined, u: us, c: rows });
      await close('h of blocks', combined, added);
      const gradUs = list(() => Tensor.zeros(device, [1, 1]));
      kernels.lowRankCombineBackward({ gradH: gs, u: us, c: rows, gradU: gradUs });
      for (const j of ranks) await close('gradU of blocks', gradUs[j]!, Float32Array.of(gu[j]!));
    });
  });
});
