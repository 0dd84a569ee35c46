import { describe, expect, it } from 'vitest';
import { kernels } from '../../lib/kernels';
import { scaleShift } from '../../lib/ops';
import { Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { scaleShift as reference } from '../reference/scale_shift';

// x is an input: nothing beside it is kept.
function scaleShiftCase(name: string, shape: number[], extra: Partial<Case> = {}): Case {
  const d = shape.at(-1)!;
  return {
    name,
    inputs: { x: { shape, scale: 3, mean: 1 }, scale: { shape: [d], mean: 1 }, shift: [d] },
    keeps: () => 0,
    ...extra,
  };
}

kernelTest('scale_shift', {
  cases: [
    scaleShiftCase('one number', [1]),
    scaleShiftCase('one row', [1, 24]),
    scaleShiftCase('a row without others', [20]),
    scaleShiftCase('three rows of 7', [3, 7]),
    ...[8, 15, 16, 17, 31, 33].map((d) => scaleShiftCase(`width ${d}`, [2, 3, d])),
    scaleShiftCase('197 tokens', [1, 197, 40]),
    scaleShiftCase('197 tokens of an odd width', [2, 197, 13]),
    scaleShiftCase('ViT-B row', [2, 5, 768]),
    scaleShiftCase('width 1', [3, 1]),
    scaleShiftCase('zeros', [3, 24], {
      inputs: { x: { shape: [3, 24], values: () => 0 }, scale: [24], shift: [24] },
      degenerate: true,
    }),
    scaleShiftCase('scales of 0', [3, 24], {
      inputs: { x: [3, 24], scale: { shape: [24], values: () => 0 }, shift: [24] },
      degenerate: true,
    }),
    scaleShiftCase('large numbers', [2, 24], {
      inputs: {
        x: { shape: [2, 24], scale: 1e4 },
        scale: { shape: [24], mean: 1 },
        shift: { shape: [24], scale: 1e4 },
      },
    }),
    scaleShiftCase('small numbers', [2, 24], {
      inputs: {
        x: { shape: [2, 24], scale: 1e-6 },
        scale: { shape: [24], mean: 1 },
        shift: { shape: [24], scale: 1e-6 },
      },
    }),
  ],
  run: ({ x, scale, shift }) => scaleShift(x!, scale!, shift!),
  reference: ({ x, scale, shift }) => reference(x!, scale!, shift!),
  computeInputs: ['x'],
  differentiable: ['x', 'scale', 'shift'],
  // A product and a sum; parameters' gradients are sums of up to 394 products in groups.
  tolerance: { f32: { out: 2, grad: 20 }, bf16: { out: 2, grad: 2 } },
  bad: [
    {
      name: 'scale of another width',
      call: (tensor) => scaleShift(tensor([2, 8]), tensor([7]), tensor([8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'scale',
      message: /scaleShiftForward: 'scale' has shape \[7\], expected \[d\] = \[8\] \(d from 'x'\)/,
    },
    {
      name: 'shift of two dimensions',
      call: (tensor) => scaleShift(tensor([2, 8]), tensor([8]), tensor([8, 1])),
      code: 'SIDETUNE_SHAPE',
      argument: 'shift',
    },
    {
      name: 'x of integers',
      call: (tensor) => scaleShift(tensor([2, 8], 'i32'), tensor([8]), tensor([8])),
      code: 'SIDETUNE_DTYPE',
      argument: 'x',
    },
    {
      name: 'bf16 scale',
      call: (tensor) => scaleShift(tensor([2, 8]), tensor([8], 'bf16'), tensor([8])),
      code: 'SIDETUNE_DTYPE',
      argument: 'scale',
    },
    {
      name: 'a disposed tensor',
      call: (tensor) => {
        const scale = tensor([8]);
        scale.dispose();
        return scaleShift(tensor([2, 8]), scale, tensor([8]));
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'scale',
    },
    {
      name: 'a missing tensor',
      call: (tensor) => scaleShift(tensor([2, 8]), tensor([8]), undefined as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'shift',
    },
    {
      name: 'a gradient of x without scale',
      call: (tensor) => kernels.scaleShiftBackward({ gradOut: tensor([2, 8]) }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'scale',
      message: /'scale' is missing, expected a tensor, since 'gradX' is wanted/,
    },
    {
      name: 'a gradient of scale without x',
      call: (tensor) =>
        kernels.scaleShiftBackward(
          { gradOut: tensor([2, 8]), gradScale: tensor([8]) },
          { wanted: { gradX: false }, kind: 'gradients' },
        ),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'x',
    },
  ],
});

describe('scale_shift', () => {
  it('adds to gradients of parameters that are there', async () => {
    await onEachTarget(async (device) => {
      using gradOut = Tensor.from(device, [1, 2, 3, 4, 5, 6], [2, 3]);
      using x = Tensor.from(device, [1, 1, 1, 2, 2, 2], [2, 3]);
      using gradScale = Tensor.from(device, [10, 20, 30], [3]);
      using gradShift = Tensor.from(device, [-1, -2, -3], [3]);
      kernels.scaleShiftBackward({ gradOut, x, gradScale, gradShift }, { wanted: { gradX: false }, kind: 'gradients' });
      expect([...(await gradScale.read())]).toEqual([19, 32, 45]);
      expect([...(await gradShift.read())]).toEqual([4, 5, 6]);
    });
  });

  it('keeps infinities and NaN', async () => {
    await onEachTarget(async (device) => {
      using x = Tensor.from(device, [Number.POSITIVE_INFINITY, Number.NaN, 3e38, -2], [4]);
      using scale = Tensor.from(device, [-1, 1, 2, 0.5], [4]);
      using shift = Tensor.from(device, [1, 1, 1, 1], [4]);
      using out = scaleShift(x, scale, shift);
      expect([...(await out.read())]).toEqual([Number.NEGATIVE_INFINITY, Number.NaN, Number.POSITIVE_INFINITY, 0]);
    });
  });
});
