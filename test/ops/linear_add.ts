/** linearAdd_, a part of linear.test.ts. */

import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import type { Device } from '../../lib/device';
import { DisposedError } from '../../lib/errors';
import { kernels, measure } from '../../lib/kernels';
import { gelu, linear, linearAdd_, type PackedWeight, packWeight } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { type DType, Tensor } from '../../lib/tensor';
import { difference, epsilon } from '../compare';
import { onEachTarget } from '../each_target';
import { type Case, type KernelTest, kernelTest } from '../kernel_test';
import { Random } from '../random';
import { linearAdd as reference } from '../reference/linear';

function normal(device: Device, shape: number[], dtype: DType, seed: number): Tensor {
  const random = new Random(seed);
  const numbers = Float32Array.from({ length: shape.reduce((p, n) => p * n, 1) }, () => random.normal());
  return Tensor.from(device, numbers, shape, { dtype });
}

function addCase(
  name: string,
  yShape: number[],
  [I, O]: [number, number],
  column: number,
  extra: Partial<Case> = {},
): Case {
  return {
    name: `${I} into ${O} at ${column}, ${name}`,
    inputs: {
      y: yShape,
      x: [...yShape.slice(0, -1), I],
      weight: { shape: [O, I], scale: 1 / Math.sqrt(I), dtype: 'f32' },
    },
    options: { column },
    keeps: () => 0,
    ...extra,
  };
}

export function linearAddTests(tolerance: KernelTest['tolerance']): void {
  kernelTest('linear: add', {
    cases: [
      addCase('one number', [1, 1], [1, 1], 0),
      addCase('one row', [1, 24], [3, 5], 7),
      addCase('one vector', [24], [3, 5], 7),
      addCase('leading dimensions', [2, 3, 2, 9], [4, 5], 1),
      addCase('one input', [7, 40], [1, 17], 11),
      addCase('the whole width', [7, 24], [8, 24], 0),
      addCase('the last column', [5, 20], [2, 1], 19),
      ...[15, 16, 17, 31, 33].map((width) => addCase('between others', [3, width + 5], [2, width], 3)),
      addCase('197 tokens', [1, 197, 36], [8, 12], 24),
      addCase('q of ViT-B rows', [3, 2304], [8, 768], 0),
      addCase('tiles in both directions', [260, 210], [70, 200], 7),
      addCase('more rows than one step', [8300, 5], [2, 3], 1),
      addCase('zeros', [3, 8], [2, 4], 2, {
        inputs: {
          y: { shape: [3, 8], scale: 0 },
          x: { shape: [3, 2], scale: 0 },
          weight: { shape: [4, 2], dtype: 'f32' },
        },
        degenerate: true,
      }),
      addCase('large numbers', [3, 24], [4, 9], 5, {
        inputs: {
          y: { shape: [3, 24], scale: 1e4 },
          x: { shape: [3, 4], scale: 1e4 },
          weight: { shape: [9, 4], dtype: 'f32' },
        },
      }),
      addCase('a weight in the dtype of y', [5, 20], [6, 7], 2, {
        inputs: { y: [5, 20], x: [5, 6], weight: { shape: [7, 6], scale: 0.4 } },
      }),
    ],
    run: ({ y, x, weight }, options) => linearAdd_(y!, x!, weight!, options),
    reference: ({ y, x, weight }, { column }) => reference(y!, x!, weight!, column),
    computeInputs: ['y', 'x', 'weight'],
    differentiable: ['y', 'x', 'weight'],
    inPlace: ['y'],
    // As a linear layer. In bf16 an f32 weight is rounded, too.
    tolerance: { f32: tolerance.f32, bf16: { out: 4, grad: 4 } },
    bad: [
      {
        name: 'a window that ends behind the last column',
        call: (tensor) => linearAdd_(tensor([2, 8]), tensor([2, 3]), tensor([4, 3]), { column: 5 }),
        code: 'SIDETUNE_ARGUMENT',
        argument: 'column',
        message: /linearAddForward: 'column' is 5, expected at most 4: a window of 4 columns in 8, the width of 'y'/,
      },
      {
        name: 'a negative column',
        call: (tensor) => linearAdd_(tensor([2, 8]), tensor([2, 3]), tensor([4, 3]), { column: -1 }),
        code: 'SIDETUNE_ARGUMENT',
        argument: 'column',
      },
      {
        name: 'a fractional column',
        call: (tensor) => linearAdd_(tensor([2, 8]), tensor([2, 3]), tensor([4, 3]), { column: 0.5 }),
        code: 'SIDETUNE_ARGUMENT',
        argument: 'column',
      },
      {
        name: 'more outputs than y has columns',
        call: (tensor) => linearAdd_(tensor([2, 8]), tensor([2, 3]), tensor([9, 3])),
        code: 'SIDETUNE_SHAPE',
        argument: 'weight',
        message: /'weight' is \[9, 3\], expected \[O, I\] with O of at most 8, the width of 'y'/,
      },
      {
        name: 'a weight of another width',
        call: (tensor) => linearAdd_(tensor([2, 8]), tensor([2, 3]), tensor([4, 2])),
        code: 'SIDETUNE_SHAPE',
        argument: 'weight',
        message: /'weight' has shape \[4, 2\], expected \[O, I\] = \[4, 3\]/,
      },
      {
        name: 'x of other rows',
        call: (tensor) => linearAdd_(tensor([2, 8]), tensor([3, 3]), tensor([4, 3])),
        code: 'SIDETUNE_SHAPE',
        argument: 'x',
      },
      {
        name: 'x of another dtype',
        call: (tensor) => linearAdd_(tensor([2, 8], 'bf16'), tensor([2, 3]), tensor([4, 3])),
        code: 'SIDETUNE_DTYPE',
        argument: 'x',
        message: /'x' is f32, expected bf16 like 'y'/,
      },
      {
        name: 'y of integers',
        call: (tensor) => linearAdd_(tensor([2, 8], 'i32'), tensor([2, 3]), tensor([4, 3])),
        code: 'SIDETUNE_DTYPE',
        argument: 'y',
      },
      {
        name: 'a bf16 weight for f32 numbers',
        call: (tensor) => linearAdd_(tensor([2, 8]), tensor([2, 3]), tensor([4, 3], 'bf16')),
        code: 'SIDETUNE_ARGUMENT',
        argument: 'weight',
        message: /'weight' is bf16, expected f32 like 'x'/,
      },
      {
        name: 'x in the buffer of y',
        call: (tensor) => {
          const y = tensor([2, 8]);
          return linearAdd_(y, y, tensor([4, 8]));
        },
        code: 'SIDETUNE_SHAPE',
        message: /overlaps/,
      },
      {
        name: 'gradient of x without weight',
        call: (tensor) => kernels.linearAddBackward({ gradOut: tensor([2, 8]), x: tensor([2, 3]) }),
        code: 'SIDETUNE_ARGUMENT',
        argument: 'weight',
        message: /'weight' is missing, expected a tensor, since 'gradX' is wanted/,
      },
      {
        name: 'gradient of the weight without x',
        call: (tensor) =>
          kernels.linearAddBackward(
            { gradOut: tensor([2, 8]), gradWeight: tensor([4, 3]) },
            { wanted: { gradX: false } },
          ),
        code: 'SIDETUNE_ARGUMENT',
        argument: 'x',
      },
      {
        name: 'gradient of a window behind the last column',
        call: (tensor) =>
          kernels.linearAddBackward(
            { gradOut: tensor([2, 8]), x: tensor([2, 3]), gradWeight: tensor([4, 3]), column: 5 },
            { wanted: { gradX: false } },
          ),
        code: 'SIDETUNE_ARGUMENT',
        argument: 'column',
        message: /in 8, the width of 'gradOut'/,
      },
    ],
  });

  describe('linear: add, in place', () => {
    const [rows, d, r] = [9, 16, 3];

    it('low-rank adapters on two windows are the merged weight', async () => {
      await onEachTarget(async (device) => {
        await scope(async () => {
          const draw = (shape: number[], seed: number): Tensor => normal(device, shape, 'f32', seed);
          const [x, weight] = [draw([rows, d], 1), draw([3 * d, d], 2)];
          const adapters = [0, 2 * d].map((column) => ({
            column,
            a: draw([r, d], 3 + column),
            b: draw([d, r], 4 + column),
          }));
          const gradient = async (forward: () => Tensor): Promise<Float32Array[]> => {
            const tape = new Tape();
            tape.watch(x);
            const out = tape.run(forward);
            tape.seed(out, draw([rows, 3 * d], 9));
            tape.backward();
            using gradX = tape.takeGradient(x);
            return [(await out.read()) as Float32Array, (await gradX.read()) as Float32Array];
          };
          const merged = (await weight.read()) as Float32Array;
          for (const { column, a, b } of adapters) {
            const [down, up] = [await a.read(), await b.read()];
            for (let o = 0; o < d; o++)
              for (let i = 0; i < d; i++)
                for (let k = 0; k < r; k++) merged[(column + o) * d + i]! += up[o * r + k]! * down[k * d + i]!;
          }
          const expected = await gradient(() => linear(x, Tensor.from(device, merged, [3 * d, d])));
          const actual = await gradient(() =>
            adapters.reduce((y, { column, a, b }) => linearAdd_(y, linear(x, a), b, { column }), linear(x, weight)),
          );
          const bound = { roundings: 100, epsilon: epsilon.f32 };
          for (const [i, numbers] of actual.entries()) expect(difference(numbers, expected[i]!, bound)).toBeNull();
        });
      });
    });

    it.each(['f32', 'bf16'] as const)('packed weights give the bits that the plain weight gives, %s', async (dtype) => {
      await onEachTarget(async (device) => {
        const run = async (weight: (plain: Tensor) => Tensor | PackedWeight): Promise<Uint8Array[]> => {
          const [x, y, plain] = [
            [rows, r],
            [rows, 2 * d],
            [d, r],
          ].map((shape, i) => normal(device, shape, dtype, i));
          const tape = new Tape();
          tape.watch(x!);
          const used = weight(plain!);
          const out = tape.run(() => linearAdd_(y!, x!, used, { column: 5 }));
          expect(tape.report().some(({ name }) => name === 'x')).toBe(false);
          const cotangent = normal(device, [rows, 2 * d], dtype, 7);
          tape.seed(out, cotangent);
          tape.backward();
          const gradX = tape.takeGradient(x!);
          const bytes = [await out.readBytes(), await gradX.readBytes()];
          for (const tensor of [x!, y!, plain!, out, gradX, cotangent, used]) tensor.dispose();
          return bytes;
        };
        expect(await run((plain) => packWeight(plain))).toEqual(await run((plain) => plain));
      });
    });

    it('what was saved before the change is refused in backward', async () => {
      await onEachTarget(async (device) => {
        await scope(async () => {
          const [y, x, weight] = [
            [rows, d],
            [rows, r],
            [d, r],
          ].map((shape, i) => normal(device, shape, 'f32', i));
          const tape = new Tape();
          tape.watch(y!);
          const out = tape.run(() => {
            const before = gelu(y!);
            linearAdd_(y!, x!, weight!);
            return before;
          });
          tape.seed(out, out);
          let error: unknown;
          try {
            tape.backward();
          } catch (caught) {
            error = caught;
          }
          expect(error).toMatchObject({ code: 'SIDETUNE_MODIFIED', kernel: 'gelu', argument: 'x' });
          expect(error).toBeInstanceOf(DisposedError);
          expect((error as Error).message).toMatch(/'x' was changed in place after it was saved/);
        });
      });
    });

    it('backward copies no window: scratch memory does not grow with the rows', async () => {
      await onEachTarget(async (device) => {
        const scratch = (count: number): Promise<number> =>
          scope(async () => {
            const [W, O, I] = [48, 40, 2];
            const [gradOut, x] = [Tensor.zeros(device, [count, W]), Tensor.zeros(device, [count, I])];
            const [weight, gradWeight] = [Tensor.zeros(device, [O, I]), Tensor.zeros(device, [O, I])];
            device.resetPeak();
            const before = device.memory().currentBytes;
            const { gradX } = kernels.linearAddBackward({ gradOut, x, weight, gradWeight, column: 3 });
            return device.memory().peakBytes - before - gradX!.bytes;
          });
        expect(await scratch(8192)).toBe(await scratch(4096));
      });
    });

    it('the bytes that count are those of the window', async () => {
      await onEachTarget(async (device) => {
        await scope(async () => {
          const [y, x, weight] = [
            [rows, 3 * d],
            [rows, r],
            [d, r],
          ].map((shape) => Tensor.zeros(device, shape));
          const others = x!.bytes + weight!.bytes;
          const { bytes } = measure('linearAddForward', { y: y!, x: x!, weight: weight!, column: d });
          expect(bytes).toBe(others + (2 * y!.bytes) / 3);
          const backward = { gradOut: y!, x: x!, weight: weight!, column: d };
          expect(measure('linearAddBackward', backward).bytes).toBe(others + x!.bytes + y!.bytes / 3);
        });
      });
    });
  });
}
