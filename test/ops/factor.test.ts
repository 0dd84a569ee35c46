import { expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { kernels, measure } from '../../lib/kernels';
import { factorContract, linear } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { difference, epsilon } from '../compare';
import { onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { Random } from '../random';
import { factorContract as reference } from '../reference/factor';

type Layout = 'rows' | 'interleaved_rows' | 'interleaved_columns';
const layouts: Layout[] = ['rows', 'interleaved_rows', 'interleaved_columns'];

function factorCase(name: string, r: number, T: number, column: number, count: number, extra: Partial<Case> = {}) {
  return layouts.map(
    (layout): Case => ({
      name: `${name}: rank ${r}, ${count} of ${T} from ${column}, ${layout}`,
      inputs: { core: { shape: [r, r, r], scale: 1 / Math.sqrt(r) }, factors: [r, T] },
      options: { column, count, layout },
      keeps: () => 0,
      only: 'f32',
      ...extra,
    }),
  );
}

kernelTest('factor', {
  cases: [
    ...factorCase('one number', 1, 1, 0, 1),
    ...factorCase('one matrix', 3, 4, 2, 1),
    ...factorCase('all columns', 4, 3, 0, 3),
    ...factorCase('the last columns', 5, 12, 8, 4),
    ...[7, 8, 9].flatMap((r) => factorCase('widths around a vector', r, 6, 1, 4)),
    ...factorCase('widths around a vector', 17, 5, 1, 2),
    ...factorCase('more than a thread takes', 33, 12, 4, 4, { long: true }),
    ...factorCase('zeros', 3, 4, 1, 2, {
      inputs: { core: { shape: [3, 3, 3], values: () => 0 }, factors: { shape: [3, 4], values: () => 0 } },
      degenerate: true,
    }),
    ...factorCase('large numbers', 4, 5, 1, 4, {
      inputs: { core: { shape: [4, 4, 4], scale: 1e4 }, factors: { shape: [4, 5], scale: 1e4 } },
    }),
  ],
  run: ({ core, factors }, options) => factorContract(core!, factors!, options as { count: number }),
  reference: ({ core, factors }, options) =>
    reference(core!, factors!, options as { column: number; count: number; layout: string }),
  computeInputs: [],
  differentiable: ['core', 'factors'],
  outputDtype: 'f32',
  // Sums of r numbers; gradients of factors are sums of r².
  tolerance: { f32: { out: 16, grad: 40 }, bf16: { out: 1, grad: 1 } },
  bad: [
    {
      name: 'columns behind the last',
      call: (tensor) => factorContract(tensor([3, 3, 3]), tensor([3, 8]), { column: 5, count: 4 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'column',
      message: /factorContractForward: 'column' is 5, expected at most 4: 4 of 8, the number of columns of 'factors'/,
    },
    {
      name: 'more columns than there are',
      call: (tensor) => factorContract(tensor([3, 3, 3]), tensor([3, 8]), { count: 9 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'count',
      message: /'count' is 9, expected at most 8, the number of columns of 'factors'/,
    },
    {
      name: 'no columns',
      call: (tensor) => factorContract(tensor([3, 3, 3]), tensor([3, 8]), { count: 0 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'count',
    },
    {
      name: 'no count',
      call: (tensor) => factorContract(tensor([3, 3, 3]), tensor([3, 8]), {} as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'count',
    },
    {
      name: 'a negative column',
      call: (tensor) => factorContract(tensor([3, 3, 3]), tensor([3, 8]), { column: -1, count: 1 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'column',
    },
    {
      name: 'an unknown layout',
      call: (tensor) => factorContract(tensor([3, 3, 3]), tensor([3, 8]), { count: 1, layout: 'columns' as never }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'layout',
      message: /'columns', expected one of 'rows', 'interleaved_rows', 'interleaved_columns'/,
    },
    {
      name: 'a core that is no cube',
      call: (tensor) => factorContract(tensor([3, 4, 3]), tensor([3, 8]), { count: 1 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'core',
      message: /'core' has shape \[3, 4, 3\], expected \[r, r, r\]/,
    },
    {
      name: 'factors of another rank',
      call: (tensor) => factorContract(tensor([3, 3, 3]), tensor([4, 8]), { count: 1 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'factors',
      message: /'factors' has shape \[4, 8\], expected \[r, T\] = \[3, T\] \(r from 'core'\)/,
    },
    {
      name: 'a bf16 core',
      call: (tensor) => factorContract(tensor([3, 3, 3], 'bf16'), tensor([3, 8]), { count: 1 }),
      code: 'SIDETUNE_DTYPE',
      argument: 'core',
    },
    {
      name: 'bf16 factors',
      call: (tensor) => factorContract(tensor([3, 3, 3]), tensor([3, 8], 'bf16'), { count: 1 }),
      code: 'SIDETUNE_DTYPE',
      argument: 'factors',
    },
    {
      name: 'gradient of the core without factors',
      call: (tensor) =>
        kernels.factorContractBackward({ gradOut: tensor([3, 3]), gradCore: tensor([3, 3, 3]), count: 1 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'factors',
      message: /'factors' is missing, expected a tensor, since 'gradCore' is wanted/,
    },
    {
      name: 'gradient of the factors without core',
      call: (tensor) =>
        kernels.factorContractBackward({ gradOut: tensor([3, 3]), gradFactors: tensor([3, 8]), count: 1 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'core',
    },
  ],
});

const draw = (seed: number, length: number): Float32Array => {
  const random = new Random(seed);
  return Float32Array.from({ length }, () => random.normal());
};

// Written from the words of the published layout, not from the reference: x S_t, x F and x Gᵀ.
it('factor: linear layers on the weights multiply by S_t, F and Gᵀ', async () => {
  await onEachTarget(async (device) => {
    await scope(async () => {
      const [r, T, column, count] = [3, 9, 4, 4];
      const [c, p] = [draw(1, r ** 3), draw(2, r * T)];
      const [core, factors] = [Tensor.from(device, c, [r, r, r]), Tensor.from(device, p, [r, T])];
      const S = (t: number, a: number, b: number): number => {
        let sum = 0;
        for (let k = 0; k < r; k++) sum += c[(a * r + b) * r + k]! * p[k * T + t]!;
        return sum;
      };
      // [r, r, 4] row-major, seen as [r, 4 r].
      const matrix = Array.from({ length: r * count * r }, (_, i) => {
        const [ab, t] = [Math.floor(i / count), i % count];
        return S(column + t, Math.floor(ab / r), ab % r);
      });
      const u = draw(3, r);
      const wide = draw(4, count * r);
      const times = async (x: Float32Array, layout: Layout): Promise<ArrayLike<number>> =>
        linear(Tensor.from(device, x, [1, x.length]), factorContract(core, factors, { column, count, layout })).read();
      const sum = (length: number, term: (i: number) => number): number =>
        Array.from({ length }, (_, i) => term(i)).reduce((total, value) => total + value, 0);
      const bound = { roundings: 40, epsilon: epsilon.f32 };
      const expectClose = async (actual: ArrayLike<number>, length: number, at: (i: number) => number): Promise<void> =>
        expect(
          difference(
            actual,
            Float32Array.from({ length }, (_, i) => at(i)),
            bound,
          ),
        ).toBeNull();
      await expectClose(await times(u, 'rows'), count * r, (i) =>
        sum(r, (a) => u[a]! * S(column + Math.floor(i / r), a, i % r)),
      );
      await expectClose(await times(u, 'interleaved_rows'), count * r, (n) =>
        sum(r, (a) => u[a]! * matrix[a * count * r + n]!),
      );
      await expectClose(await times(wide, 'interleaved_columns'), r, (a) =>
        sum(count * r, (n) => wide[n]! * matrix[a * count * r + n]!),
      );
    });
  });
});

it('factor: contractions of one core add up in one gradient', async () => {
  await onEachTarget(async (device) => {
    await scope(async () => {
      const [r, T] = [4, 6];
      const core = Tensor.from(device, draw(5, r ** 3), [r, r, r]);
      const factors = Tensor.from(device, draw(6, r * T), [r, T]);
      const gradients = async (parts: { column: number; count: number }[]): Promise<ArrayLike<number>[]> => {
        const tape = new Tape();
        for (const tensor of [core, factors]) tape.watch(tensor);
        const outs = tape.run(() => parts.map((part) => factorContract(core, factors, part)));
        for (const out of outs) tape.seed(out, Tensor.from(device, new Float32Array(out.bytes / 4).fill(1), out.shape));
        tape.backward();
        using gradCore = tape.takeGradient(core);
        using gradFactors = tape.takeGradient(factors);
        return [await gradCore.read(), await gradFactors.read()];
      };
      const [whole, parts] = [
        await gradients([{ column: 0, count: T }]),
        await gradients([
          { column: 0, count: 2 },
          { column: 2, count: 4 },
        ]),
      ];
      for (const [i, gradient] of parts.entries())
        expect(difference(gradient, whole[i]!, { roundings: 40, epsilon: epsilon.f32 })).toBeNull();
    });
  });
});

it('factor: the bytes that count are those of the columns at work', async () => {
  await onEachTarget(async (device) => {
    using core = Tensor.zeros(device, [4, 4, 4]);
    using factors = Tensor.zeros(device, [4, 6]);
    using gradOut = Tensor.zeros(device, [8, 4]);
    const columns = (2 / 6) * factors.bytes;
    const at = { column: 1, count: 2 };
    expect(measure('factorContractForward', { core, factors, ...at }).bytes).toBe(core.bytes + columns + gradOut.bytes);
    using gradCore = Tensor.zeros(device, core.shape);
    using gradFactors = Tensor.zeros(device, factors.shape);
    const backward = { gradOut, core, factors, gradCore, gradFactors, ...at };
    expect(measure('factorContractBackward', backward).bytes).toBe(3 * core.bytes + 3 * columns + gradOut.bytes);
  });
});
