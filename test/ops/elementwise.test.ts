import { describe, expect, it } from 'vitest';
import { bf16ToFloat32, float32ToBf16 } from '../../lib/io/half';
import { add, addInto_, cast, fill_, residualAdd, scale, scaleImages } from '../../lib/ops';
import { type DType, Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type BadCall, type Case, type InputSpec, kernelTest } from '../kernel_test';
import * as reference from '../reference/elementwise';

/** Cases of an op on tensors of one shape. */
function cases(inputs: (shape: number[]) => Record<string, InputSpec>, options: Record<string, unknown> = {}): Case[] {
  const shapes = [[1], [15], [16], [17], [33], [2, 5, 7], [197, 3], [17, 2003]];
  return shapes.map((shape) => ({
    name: `[${shape.join(', ')}]`,
    inputs: inputs(shape),
    options,
    keeps: () => 0,
  }));
}

// One rounding, two where the result is bf16: f32 first.
const tolerance = { f32: { out: 2, grad: 2 }, bf16: { out: 2, grad: 2 } };

const disposed = (call: (x: Tensor) => unknown, argument: string): BadCall => ({
  name: 'a disposed tensor',
  call: (tensor) => {
    const x = tensor([8]);
    x.dispose();
    return call(x);
  },
  code: 'SIDETUNE_DISPOSED',
  argument,
});

kernelTest('add', {
  cases: cases((shape) => ({ a: { shape }, b: { shape, mean: 1 } })),
  run: ({ a, b }) => add(a!, b!),
  reference: ({ a, b }) => reference.add(a!, b!),
  computeInputs: ['a', 'b'],
  differentiable: ['a', 'b'],
  tolerance,
  bad: [
    {
      name: 'shapes that differ',
      call: (tensor) => add(tensor([2, 8]), tensor([8, 2])),
      code: 'SIDETUNE_SHAPE',
      argument: 'b',
      message: /addForward: 'b' has shape \[8, 2\]/,
    },
    {
      name: 'dtypes that differ',
      call: (tensor) => add(tensor([8]), tensor([8], 'bf16')),
      code: 'SIDETUNE_DTYPE',
      argument: 'b',
      message: /'b' is bf16, expected f32 like 'a'/,
    },
    disposed((x) => add(x, x), 'a'),
  ],
});

kernelTest('scale', {
  cases: cases((shape) => ({ x: { shape } }), { factor: -2.5 }),
  run: ({ x }, { factor }) => scale(x!, factor),
  reference: ({ x }, { factor }) => reference.scale(x!, factor),
  computeInputs: ['x'],
  differentiable: ['x'],
  tolerance,
  bad: [
    {
      name: 'an infinite factor',
      call: (tensor) => scale(tensor([8]), Number.POSITIVE_INFINITY),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'factor',
      message: /expected a finite number/,
    },
    {
      name: 'no factor',
      call: (tensor) => scale(tensor([8]), undefined as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'factor',
    },
    disposed((x) => scale(x, 1), 'x'),
  ],
});

for (const dtype of ['f32', 'bf16'] as const) {
  kernelTest(`cast to ${dtype}`, {
    cases: cases((shape) => ({ x: { shape } })),
    run: ({ x }) => cast(x!, dtype),
    reference: ({ x }) => x!,
    computeInputs: ['x'],
    outputDtype: dtype,
    differentiable: ['x'],
    tolerance,
    bad: [
      {
        name: 'from integers',
        call: (tensor) => cast(tensor([8], 'i32'), dtype),
        code: 'SIDETUNE_DTYPE',
        argument: 'x',
      },
      {
        name: 'to integers',
        call: (tensor) => cast(tensor([8]), 'i32' as never),
        code: 'SIDETUNE_DTYPE',
        argument: 'out',
      },
    ],
  });
}

const imageShapes: [number, number, number][] = [
  [1, 1, 1],
  [1, 1, 24],
  [3, 5, 15],
  [3, 5, 16],
  [4, 2, 17],
  [2, 197, 10],
  [5, 3, 768],
];

kernelTest('residual_add', {
  cases: imageShapes.map((shape) => ({
    name: `[${shape.join(', ')}]`,
    // The first image takes the branch, the second skips it.
    inputs: {
      x: { shape },
      branch: { shape },
      rowScale: { shape: [shape[0]], values: (b) => (b % 2 ? 0 : 1.25) },
    },
    keeps: () => 0,
  })),
  run: ({ x, branch, rowScale }) => residualAdd(x!, branch!, rowScale!),
  reference: ({ x, branch, rowScale }) => reference.residualAdd(x!, branch!, rowScale!),
  computeInputs: ['x', 'branch'],
  differentiable: ['x', 'branch'],
  tolerance,
  bad: [
    {
      name: 'a scale for each token',
      call: (tensor) => residualAdd(tensor([2, 3, 8]), tensor([2, 3, 8]), tensor([6])),
      code: 'SIDETUNE_SHAPE',
      argument: 'rowScale',
      message: /'rowScale' has shape \[6\], expected \[B\] = \[2\] \(B from 'x'\)/,
    },
    {
      name: 'a branch of another width',
      call: (tensor) => residualAdd(tensor([2, 3, 8]), tensor([2, 3, 9]), tensor([2])),
      code: 'SIDETUNE_SHAPE',
      argument: 'branch',
    },
    {
      name: 'bf16 scales',
      call: (tensor) => residualAdd(tensor([2, 3, 8]), tensor([2, 3, 8]), tensor([2], 'bf16')),
      code: 'SIDETUNE_DTYPE',
      argument: 'rowScale',
    },
  ],
});

kernelTest('scale_images', {
  cases: imageShapes.map((shape) => ({
    name: `[${shape.join(', ')}]`,
    inputs: { x: { shape }, rowScale: { shape: [shape[0]], values: (b) => (b % 2 ? 0 : 1.25) } },
    keeps: () => 0,
  })),
  run: ({ x, rowScale }) => scaleImages(x!, rowScale!),
  reference: ({ x, rowScale }) => reference.scaleImages(x!, rowScale!),
  computeInputs: ['x'],
  differentiable: ['x'],
  tolerance,
  bad: [
    {
      name: 'a scale for each token',
      call: (tensor) => scaleImages(tensor([2, 3, 8]), tensor([6])),
      code: 'SIDETUNE_SHAPE',
      argument: 'rowScale',
    },
  ],
});

describe('elementwise: in place, and what has no gradient', () => {
  const sizes = [1, 15, 16, 17, 31, 33, 197];
  const numbers = (size: number): Float32Array => Float32Array.from({ length: size }, (_, i) => Math.sin(i) * 3);
  const rounded = (data: Float32Array, dtype: DType): Float32Array =>
    dtype === 'bf16' ? bf16ToFloat32(float32ToBf16(data)) : data;

  it('what overflowed in a skipped branch stays there', async () => {
    await onEachTarget(async (device) => {
      using x = Tensor.from(device, numbers(40), [2, 1, 20]);
      using branch = Tensor.from(device, new Float32Array(40).fill(Number.POSITIVE_INFINITY), [2, 1, 20]);
      using rowScale = Tensor.from(device, [0, 0], [2]);
      using out = residualAdd(x, branch, rowScale);
      expect(await out.read()).toEqual(numbers(40));
    });
  });

  it.each(['f32', 'bf16'] as const)('addInto_ adds once, %s', async (dtype) => {
    await onEachTarget(async (device) => {
      for (const size of [...sizes, 40_000]) {
        const [a, b] = [rounded(numbers(size), dtype), rounded(numbers(size + 3).subarray(3), dtype)];
        using target = Tensor.from(device, a, [size], { dtype });
        using x = Tensor.from(device, b, [size], { dtype });
        const version = target.version;
        expect(addInto_(target, x)).toBe(target);
        expect(target.version).not.toBe(version);
        const sum = a.map((value, i) => value + b[i]!);
        expect(await target.read()).toEqual(rounded(sum, dtype));
        expect(await x.read()).toEqual(b);
      }
    });
  });

  it('addInto_ refuses a tensor that overlaps its target', async () => {
    await onEachTarget(async (device) => {
      using target = Tensor.from(device, numbers(8), [8]);
      expect(() => addInto_(target, target)).toThrow(expect.objectContaining({ code: 'SIDETUNE_SHAPE' }));
      expect(await target.read()).toEqual(numbers(8));
    });
  });

  it.each(['f32', 'bf16'] as const)('fill_, %s', async (dtype) => {
    await onEachTarget(async (device) => {
      for (const size of [...sizes, 40_000]) {
        using out = Tensor.empty(device, [size], { dtype });
        expect(fill_(out, 1.5)).toBe(out);
        expect(await out.read()).toEqual(new Float32Array(size).fill(1.5));
      }
      using integers = Tensor.zeros(device, [4], { dtype: 'i32' });
      expect(() => fill_(integers, 1)).toThrow(expect.objectContaining({ code: 'SIDETUNE_DTYPE', argument: 'out' }));
    });
  });

  it.each(['f32', 'bf16'] as const)('cast of all pixels to %s', async (dtype) => {
    const pixels = Uint8Array.from({ length: 256 + 3 }, (_, i) => i % 256);
    await onEachTarget(async (device) => {
      using x = Tensor.from(device, pixels, [pixels.length]);
      using out = cast(x, dtype);
      expect(await out.read()).toEqual(Float32Array.from(pixels));
    });
  });

  it('cast rounds to nearest even and keeps NaN and infinities', async () => {
    const exact = 1 + 2 ** -7;
    const values = [
      1 + 2 ** -8,
      exact + 2 ** -8,
      exact + 2 ** -9,
      3.4e38,
      Number.NEGATIVE_INFINITY,
      Number.NaN,
      -0,
      1e-40,
    ];
    await onEachTarget(async (device) => {
      using x = Tensor.from(device, values, [values.length]);
      using out = cast(x, 'bf16');
      // The smallest denormal number of bf16 is 2⁻¹³³.
      const special = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, -0, 2 ** -133];
      expect([...(await out.read())]).toEqual([1, 1 + 2 ** -6, exact, ...special]);
    });
  });
});
