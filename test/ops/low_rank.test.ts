import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { Device } from '../../lib/device';
import { DisposedError } from '../../lib/errors';
import { kernels } from '../../lib/kernels';
import { lowRankAccumulate_, sideInject } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { type DType, Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { Random } from '../random';
import { lowRankAccumulate as reference } from '../reference/low_rank';

// r f32 numbers a row beside z.
function lowRankCase(name: string, shape: number[], r: number, extra: Partial<Case> = {}): Case {
  const d = shape.at(-1)!;
  const rows = shape.reduce((product, length) => product * length, 1) / d;
  return {
    name,
    inputs: { h: shape, z: shape, a: { shape: [d, r], scale: 1 / Math.sqrt(d) }, c: [r, d] },
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
    lowRankCase('zeros', [3, 24], 2, {
      inputs: { h: [3, 24], z: { shape: [3, 24], values: () => 0 }, a: [24, 2], c: [2, 24] },
      degenerate: true,
    }),
    lowRankCase('large numbers', [3, 24], 2, {
      inputs: { h: { shape: [3, 24], scale: 1e4 }, z: { shape: [3, 24], scale: 1e4 }, a: [24, 2], c: [2, 24] },
    }),
  ],
  run: ({ h, z, a, c }, options) => lowRankAccumulate_(h!, z!, a!, c!, options),
  reference: ({ h, z, a, c }, { initialize }) => reference(h!, z!, a!, c!, initialize),
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
    const device = await Device.open('cpu');
    const [z, a, c] = [draw(device, [rows, d], 1), draw(device, [d, r], 2), draw(device, [r, d], 3)];
    const poisoned = Tensor.from(device, new Float32Array(rows * d).fill(Number.NaN), [rows, d]);
    const zeros = Tensor.zeros(device, [rows, d]);
    lowRankAccumulate_(poisoned, z, a, c, { initialize: true });
    lowRankAccumulate_(zeros, z, a, c);
    expect(await numbers(poisoned)).toEqual(await numbers(zeros));
    await device.close();
  });

  it('walked back over twelve layers, h drifts by roundings only', async () => {
    const device = await Device.open('cpu');
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
    const device = await Device.open('cpu');
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
  const [rows, d, blocks] = [37, 20, 3];

  function make(device: Device, dtype: DType, r: number) {
    const list = (shape: number[], seed: number, of: DType = 'f32'): Tensor[] =>
      Array.from({ length: blocks }, (_, j) => draw(device, shape, seed + j, of));
    return {
      h: draw(device, [rows, d], 1),
      gradH: draw(device, [rows, d], 2),
      z: list([rows, d], 10, dtype),
      a: list([d, r], 20),
      c: list([r, d], 30),
    };
  }

  const cases = (['f32', 'bf16'] as const).flatMap((dtype) => [1, 2, 3, 4, 5, 8].map((r) => [dtype, r] as const));

  it.each(cases)(
    'project and combine have the bits of one accumulate after the other, %s, rank %i',
    async (dtype, r) => {
      await onEachTarget((device) =>
        scope(async () => {
          for (const initialize of [false, true]) {
            const { h, z, a, c } = make(device, dtype, r);
            const single = initialize
              ? Tensor.from(device, new Float32Array(rows * d).fill(Number.NaN), [rows, d])
              : h.alias();
            const together = Tensor.from(device, (await single.read()) as Float32Array, [rows, d]);
            const u = z.map((_, j) => kernels.lowRankProject({ z: z[j]!, a: a[j]! }, { poison: true }).u);
            kernels.lowRankCombine({ h: together, u, c, initialize });
            for (let j = 0; j < blocks; j++) {
              const args = { h: single, z: z[j]!, a: a[j]!, c: c[j]!, initialize: initialize && j === 0 };
              const one = kernels.lowRankAccumulateForward(args, { save: true });
              expect(await numbers(u[j]!)).toEqual(await numbers(one.u!));
            }
            expect(await numbers(together)).toEqual(await numbers(single));
          }
        }),
      );
    },
  );

  it.each(cases)('their gradients have the bits of the single ones, any subset, %s, rank %i', async (dtype, r) => {
    await onEachTarget((device) =>
      scope(async () => {
        const { gradH, z, a, c } = make(device, dtype, r);
        const u = z.map((_, j) => kernels.lowRankProject({ z: z[j]!, a: a[j]! }).u);
        const accumulators = () => ({
          gradA: a.map((like, j) => draw(device, [...like.shape], 40 + j)),
          gradC: c.map((like, j) => draw(device, [...like.shape], 50 + j)),
        });
        const expected = accumulators();
        for (let j = 0; j < blocks; j++) {
          kernels.lowRankAccumulateBackward(
            { gradH, z: z[j]!, a: a[j]!, c: c[j]!, u: u[j]!, gradA: expected.gradA[j], gradC: expected.gradC[j] },
            { wanted: { gradZ: false } },
          );
        }
        for (const wanted of [['gradA', 'gradC'], ['gradA'], ['gradC']] as const) {
          const got = accumulators();
          const chosen = Object.fromEntries(wanted.map((name) => [name, got[name]]));
          kernels.lowRankCombineBackward({ gradH, z, u, c, ...chosen }, { poison: true });
          for (const name of wanted) {
            for (let j = 0; j < blocks; j++)
              expect(await numbers(got[name][j]!)).toEqual(await numbers(expected[name][j]!));
          }
        }
      }),
    );
  });

  it('refuses lists that do not fit, and changes nothing', async () => {
    await onEachTarget((device) =>
      scope(async () => {
        const { h, gradH, z, c } = make(device, 'f32', 2);
        const before = await numbers(h);
        const u = c.map((_, j) => draw(device, [rows, 2], 60 + j));
        const few = [draw(device, [rows - 1, 2], 1), u[1]!, u[2]!];
        const wide = [draw(device, [rows, d + 1], 1), z[1]!, z[2]!];
        const shape = (argument: string) => expect.objectContaining({ code: 'SIDETUNE_SHAPE', argument });
        expect(() => kernels.lowRankCombine({ h, u: few, c })).toThrow(shape('u'));
        expect(() => kernels.lowRankCombine({ h, u: u.slice(1), c })).toThrow(shape('c'));
        expect(() => kernels.lowRankCombine({ h, u: z, c })).toThrow(shape('u'));
        expect(() => kernels.lowRankCombine({ h, u: [], c: [] })).toThrow(
          expect.objectContaining({ code: 'SIDETUNE_ARGUMENT', argument: 'u' }),
        );
        const gradC = c.map(() => draw(device, [3, d], 7));
        expect(() => kernels.lowRankCombineBackward({ gradH, z, u, c, gradC })).toThrow(shape('gradC'));
        expect(() => kernels.lowRankCombineBackward({ gradH, z: wide, u, c })).toThrow(shape('z'));
        expect(() => kernels.lowRankCombineBackward({ gradH, z, u: few, c })).toThrow(shape('u'));
        expect(await numbers(h)).toEqual(before);
      }),
    );
  });
});
