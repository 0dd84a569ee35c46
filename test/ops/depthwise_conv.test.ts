import { expect, it } from 'vitest';
import { depthwiseConv } from '../../lib/ops';
import { Tensor } from '../../lib/tensor';
import { openDevice } from '../each_target';
import { type Case, type Golden, kernelTest } from '../kernel_test';
import { depthwiseConv as reference } from '../reference/depthwise_conv';

type Grid = [number, number];

function convCase(
  name: string,
  [B, P, [rows, columns], D, K]: [number, number, Grid, number, number],
  extra: Partial<Case> = {},
): Case {
  return {
    name,
    inputs: { x: [B, P + rows * columns, D], weight: { shape: [D, 1, K, K], scale: 1 / K } },
    options: { grid: [rows, columns], prefixTokens: P },
    keeps: () => 0,
    ...extra,
  };
}

kernelTest('depthwise_conv', {
  goldens: [3, 4, 5].flatMap((k) =>
    [0, 1].map(
      (p): Golden => ({
        file: `depthwise_conv_k${k}_p${p}`,
        inputs: { x: 'x', weight: 'weight' },
        output: 'y',
        options: { grid: [4, 4], prefixTokens: p },
      }),
    ),
  ),
  cases: [
    ...[1, 2, 3, 4, 5, 7].map((K) => convCase(`kernel of ${K}`, [1, 1, [3, 9], 5, K])),
    ...[1, 15, 16, 17, 31, 33].map((D) => convCase(`${D} channels`, [1, 1, [2, 3], D, 3])),
    convCase('a grid of one', [2, 1, [1, 1], 6, 3]),
    convCase('one row', [1, 0, [1, 6], 4, 3]),
    convCase('one column', [1, 2, [6, 1], 4, 4]),
    convCase('three images', [3, 1, [3, 2], 7, 5]),
    convCase('14 × 14 and CLS', [1, 1, [14, 14], 3, 3]),
    convCase('many channels', [1, 1, [3, 3], 300, 3]),
    convCase('many images and channels', [6, 1, [2, 2], 100, 3]),
    // Too large for a GPU's shared memory: in bands of rows, in parts of rows, and with kernels of which not one patch fits. How the weight's gradient falls
    // into sums depends on how much of it there is.
    convCase('a large grid', [1, 1, [60, 60], 3, 3], { degenerate: true }),
    convCase('a wide grid', [1, 0, [2, 20_000], 1, 3], { degenerate: true }),
    convCase('a kernel of 163', [2, 1, [2, 3], 1, 163], { degenerate: true }),
    convCase('a kernel of 85', [1, 0, [2, 2], 4, 85], { degenerate: true }),
    convCase('zeros', [1, 1, [3, 3], 4, 3], {
      inputs: { x: { shape: [1, 10, 4], values: () => 0 }, weight: [4, 1, 3, 3] },
      degenerate: true,
    }),
  ],
  run: ({ x, weight }, options) => depthwiseConv(x!, weight!, options as { grid: Grid }),
  reference: ({ x, weight }, { grid, prefixTokens }) => reference(x!, weight!, grid, prefixTokens),
  computeInputs: ['x'],
  differentiable: ['x', 'weight'],
  // Sums of k² products; the weight's gradient sums over positions and images.
  tolerance: { f32: { out: 12, grad: 40 }, bf16: { out: 2, grad: 3 } },
  bad: [
    {
      name: 'a grid that does not fit the tokens',
      call: (tensor) => depthwiseConv(tensor([1, 10, 4]), tensor([4, 1, 3, 3]), { grid: [3, 4], prefixTokens: 1 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'x',
      message: /expected \[B, P\+GH\*GW, D\]/,
    },
    {
      name: 'a kernel that is not square',
      call: (tensor) => depthwiseConv(tensor([1, 9, 4]), tensor([4, 1, 3, 5]), { grid: [3, 3] }),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
    },
    {
      name: 'a kernel for other channels',
      call: (tensor) => depthwiseConv(tensor([1, 9, 4]), tensor([5, 1, 3, 3]), { grid: [3, 3] }),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
    },
    {
      name: 'a misspelt option',
      call: (tensor) =>
        depthwiseConv(tensor([1, 9, 4]), tensor([4, 1, 3, 3]), { grid: [3, 3], prefix_tokens: 0 } as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'prefix_tokens',
      message: /unknown option 'prefix_tokens', known: /,
    },
    {
      name: 'no grid',
      call: (tensor) => depthwiseConv(tensor([1, 9, 4]), tensor([4, 1, 3, 3]), {} as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'grid',
    },
    {
      name: 'a grid of no rows',
      call: (tensor) => depthwiseConv(tensor([1, 9, 4]), tensor([4, 1, 3, 3]), { grid: [0, 9] }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'grid',
    },
  ],
});

it('moves with its input: shifted by one patch, the interior of the result is shifted', async () => {
  const device = await openDevice();
  const [side, D] = [6, 4];
  const data = Float32Array.from({ length: side * side * D }, (_, i) => Math.sin(i * 1.7));
  const shifted = new Float32Array(data.length);
  shifted.set(data.subarray(0, data.length - D), D);
  const weight = Tensor.from(
    device,
    Float32Array.from({ length: D * 9 }, (_, i) => Math.cos(i)),
    [D, 1, 3, 3],
  );
  const convolve = async (numbers: Float32Array) =>
    (await depthwiseConv(Tensor.from(device, numbers, [1, side * side, D]), weight, {
      grid: [side, side],
    }).read()) as Float32Array;
  const [plain, moved] = [await convolve(data), await convolve(shifted)];
  for (let y = 1; y < side - 1; y++) {
    for (let x = 1; x < side - 2; x++) {
      const at = (y * side + x) * D;
      expect(moved.subarray(at + D, at + 2 * D)).toEqual(plain.subarray(at, at + D));
    }
  }
  await device.close();
});
