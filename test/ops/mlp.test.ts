import { expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { kernels } from '../../lib/kernels';
import { linear, type MlpWeights, mlp, mlpMean, type PackedWeight, packWeight, pool } from '../../lib/ops';
import { type DType, Tensor } from '../../lib/tensor';
import { onCpu, onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { Random } from '../random';
import { mlpMean as meanReference, mlp as reference } from '../reference/mlp';

const size = (shape: readonly number[]): number => shape.reduce((product, length) => product * length, 1);

const made: PackedWeight[] = [];
const packed = (weight: Tensor): PackedWeight => {
  made.push(packWeight(weight));
  return made.at(-1)!;
};
const cleanUp = (): void => {
  for (const weight of made.splice(0)) weight.dispose();
};

function mlpCase(name: string, xShape: number[], H: number, O: number, extra: Partial<Case> = {}): Case {
  const I = xShape.at(-1)!;
  return {
    name,
    inputs: {
      x: xShape,
      weight1: { shape: [H, I], scale: 1 / Math.sqrt(I) },
      bias1: [H],
      weight2: { shape: [O, H], scale: 1 / Math.sqrt(H) },
      bias2: [O],
      residual: [...xShape.slice(0, -1), O],
    },
    keeps: (bytes) => (size(xShape) / I) * H * (bytes === 2 ? 1 : bytes),
    ...extra,
  };
}

kernelTest('mlp', {
  cases: [
    mlpCase('one number', [1, 1], 1, 1),
    mlpCase('one row', [1, 24], 40, 24),
    mlpCase('leading dimensions', [2, 3, 7], 5, 9),
    ...[15, 17, 33].map((width) => mlpCase(`width ${width}`, [3, width], 2 * width, width)),
    mlpCase('197 tokens', [1, 197, 24], 96, 24),
    mlpCase('tiles in both directions', [130, 20], 200, 193),
    mlpCase('more rows than one step', [8300, 3], 4, 3),
    mlpCase('large numbers', [7, 24], 40, 9, {
      inputs: {
        x: { shape: [7, 24], scale: 100 },
        weight1: [40, 24],
        bias1: [40],
        weight2: { shape: [9, 40], scale: 0.1 },
        bias2: [9],
        residual: [7, 9],
      },
    }),
  ],
  run: ({ x, weight1, bias1, weight2, bias2, residual }) =>
    mlp(x!, { weight1: packed(weight1!), bias1, weight2: packed(weight2!), bias2 }, residual),
  cleanUp,
  reference: ({ x, weight1, bias1, weight2, bias2, residual }) =>
    reference(x!, weight1!, weight2!, { bias1, bias2, residual }),
  computeInputs: ['x', 'weight1', 'weight2', 'residual'],
  differentiable: ['x', 'residual'],
  // As two linear layers, one behind the other; in bf16 the hidden numbers and their gradient are rounded in between, too.
  tolerance: { f32: { out: 50, grad: 100 }, bf16: { out: 6, grad: 12 } },
  bad: [
    {
      name: 'a plain weight',
      call: (tensor) => kernels.mlpForward({ x: tensor([2, 8]), weight1: tensor([16, 8]), weight2: tensor([8, 16]) }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'weight1',
      message: /'weight1' is plain, expected packed/,
    },
    {
      name: 'layers that do not fit together',
      call: (tensor) => {
        try {
          return mlp(tensor([2, 8]), { weight1: packed(tensor([16, 8])), weight2: packed(tensor([8, 15])) });
        } finally {
          cleanUp();
        }
      },
      code: 'SIDETUNE_SHAPE',
      argument: 'weight2',
      message: /'weight2' has shape \[8, 15\], expected \[O, H\] = \[8, 16\]/,
    },
    {
      name: 'weights of another dtype',
      call: (tensor) => {
        try {
          return mlp(tensor([2, 8], 'bf16'), { weight1: packed(tensor([16, 8])), weight2: packed(tensor([8, 16])) });
        } finally {
          cleanUp();
        }
      },
      code: 'SIDETUNE_ARGUMENT',
      argument: 'weight1',
      message: /'weight1' is packed in f32, expected bf16 like 'x'/,
    },
    {
      name: 'weights for the other direction',
      call: (tensor) => {
        try {
          const [weight1, weight2] = [packed(tensor([16, 8])), packed(tensor([8, 16]))];
          using transposed = weight2.forBackward();
          return kernels.mlpBackward({
            gradOut: tensor([2, 8]),
            slope: tensor([2, 16]),
            weight1: weight1.forward,
            weight2: transposed,
          });
        } finally {
          cleanUp();
        }
      },
      code: 'SIDETUNE_ARGUMENT',
      argument: 'weight1',
      message: /'weight1' is packed, expected plain or packed_transposed/,
    },
  ],
});

function meanCase(name: string, [B, N, I]: [number, number, number], H: number, O: number, prefixTokens = 1): Case {
  return {
    name,
    inputs: {
      x: [B, N, I],
      weight1: { shape: [H, I], scale: 1 / Math.sqrt(I) },
      bias1: [H],
      weight2: { shape: [O, H], scale: 1 / Math.sqrt(H) },
      bias2: [O],
    },
    options: { prefixTokens },
    keeps: (bytes) => B * N * H * (bytes === 2 ? 1 : bytes),
  };
}

kernelTest('mlpMean', {
  cases: [
    meanCase('one number', [1, 1, 1], 1, 1, 0),
    meanCase('one token is read', [2, 2, 24], 40, 24),
    meanCase('a prefix of several tokens', [3, 9, 7], 5, 9, 4),
    ...[15, 17, 33].map((width) => meanCase(`width ${width}`, [2, 5, width], 2 * width, width)),
    meanCase('197 tokens', [1, 197, 32], 96, 32),
    meanCase('more images than one step', [7, 300, 3], 4, 30),
    meanCase('an image of more tokens than a step has rows', [2, 1100, 3], 4, 30),
    meanCase('tiles in both directions', [2, 67, 20], 200, 193, 0),
  ],
  run: ({ x, weight1, bias1, weight2, bias2 }, { prefixTokens }) =>
    mlpMean(x!, { weight1: packed(weight1!), bias1, weight2: packed(weight2!), bias2 }, { prefixTokens }),
  cleanUp,
  reference: ({ x, weight1, bias1, weight2, bias2 }, { prefixTokens }) =>
    meanReference(x!, weight1!, weight2!, { bias1, bias2 }, prefixTokens),
  computeInputs: ['x', 'weight1', 'weight2'],
  differentiable: ['x'],
  tolerance: { f32: { out: 50, grad: 100 }, bf16: { out: 6, grad: 12 } },
  bad: [
    {
      name: 'a prefix that leaves no token',
      call: (tensor) => {
        try {
          return mlpMean(
            tensor([2, 3, 8]),
            { weight1: packed(tensor([16, 8])), weight2: packed(tensor([8, 16])) },
            { prefixTokens: 3 },
          );
        } finally {
          cleanUp();
        }
      },
      code: 'SIDETUNE_ARGUMENT',
      argument: 'prefixTokens',
      message: /'prefixTokens' is 3, expected less than 3, the number of tokens of 'x'/,
    },
    {
      name: 'rows that are no images',
      call: (tensor) => {
        try {
          return mlpMean(tensor([6, 8]), { weight1: packed(tensor([16, 8])), weight2: packed(tensor([8, 16])) });
        } finally {
          cleanUp();
        }
      },
      code: 'SIDETUNE_SHAPE',
      argument: 'x',
      message: /'x' has shape \[6, 8\], expected \[B, N, I\]/,
    },
    {
      name: 'a plain weight',
      call: (tensor) =>
        kernels.mlpMeanForward({ x: tensor([2, 3, 8]), weight1: tensor([16, 8]), weight2: tensor([8, 16]) }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'weight1',
      message: /'weight1' is plain, expected packed/,
    },
    {
      name: 'a prefix without end in backward, and weights for the other direction',
      call: (tensor) => {
        try {
          const [weight1, weight2] = [packed(tensor([16, 8])), packed(tensor([8, 16]))];
          using transposed = weight2.forBackward();
          return kernels.mlpMeanBackward({
            gradOut: tensor([2, 8]),
            slope: tensor([2, 3, 16]),
            weight1: weight1.forward,
            weight2: transposed,
            prefixTokens: 9,
          });
        } finally {
          cleanUp();
        }
      },
      code: 'SIDETUNE_ARGUMENT',
      argument: 'weight1',
      message: /'weight1' is packed, expected plain or packed_transposed/,
    },
  ],
});

function weightsOf(device: Tensor['device'], random: Random, I: number, H: number, dtype: DType): MlpWeights {
  const normal = (shape: number[], scale: number): Tensor =>
    Tensor.from(
      device,
      Float32Array.from({ length: size(shape) }, () => random.normal() * scale),
      shape,
      { dtype },
    );
  using weight1 = normal([H, I], 0.2);
  using weight2 = normal([I, H], 0.1);
  return { weight1: packed(weight1), weight2: packed(weight2) };
}

// Rows of one step fall into the tiles that the layers alone have. Of more, into others, and there GEMM libraries may sum in another order.
it('mlp gives what two linear layers give, for rows of one step bit by bit', async () => {
  await onEachTarget(async (device) => {
    for (const [dtype, rounding] of [
      ['f32', 2 ** -20],
      ['bf16', 2 ** -7],
    ] as const) {
      for (const rows of [300, 1100]) {
        const random = new Random(7);
        const weights = weightsOf(device, random, 24, 96, dtype);
        const numbers = Float32Array.from({ length: rows * 24 }, () => random.normal());
        using x = Tensor.from(device, numbers, [rows, 24], { dtype });
        using hidden = linear(x, weights.weight1, undefined, { activation: 'gelu' });
        using apart = linear(hidden, weights.weight2, undefined, { residual: x });
        using together = mlp(x, weights, x);
        if (rows === 300) expect(await together.readBytes()).toEqual(await apart.readBytes());
        const expected = (await apart.read()) as Float32Array;
        const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const off = ((await together.read()) as Float32Array).map((value, place) => Math.abs(value - expected[place]!));
        expect(off.reduce((most, value) => Math.max(most, value), 0)).toBeLessThanOrEqual(rounding * largest);
        cleanUp();
      }
    }
  });
});

it('mlp puts its result in the place of its residual where it may', async () => {
  await onEachTarget(async (device) => {
    const weights = weightsOf(device, new Random(9), 24, 96, 'bf16');
    using x = Tensor.from(device, Float32Array.from({ length: 72 }, Math.sin), [3, 24], { dtype: 'bf16' });
    using residual = Tensor.from(device, Float32Array.from({ length: 72 }, Math.cos), [3, 24], { dtype: 'bf16' });
    using apart = mlp(x, weights, residual);
    const expected = await apart.readBytes();
    using inPlace = mlp(x, weights, residual, { inPlace: true });
    expect(inPlace.address).toBe(residual.address);
    expect(await inPlace.readBytes()).toEqual(expected);
    cleanUp();
  });
});

it.runIf(onCpu)('mlpMean in int8 gives the mean of what mlp gives', async () => {
  await onEachTarget(async (device) => {
    const random = new Random(10);
    using weight1 = Tensor.from(
      device,
      Float32Array.from({ length: 96 * 24 }, () => random.normal() * 0.2),
      [96, 24],
    );
    using weight2 = Tensor.from(
      device,
      Float32Array.from({ length: 24 * 96 }, () => random.normal() * 0.1),
      [24, 96],
    );
    const weights = {
      weight1: packWeight(weight1, { dtype: 'i8' }),
      weight2: packWeight(weight2, { dtype: 'i8' }),
    };
    using x = Tensor.from(
      device,
      Float32Array.from({ length: 5 * 24 }, () => random.normal()),
      [1, 5, 24],
      {
        dtype: 'bf16',
      },
    );
    using rows = mlpMean(x, weights, { prefixTokens: 1 });
    using all = mlp(x, weights);
    using expected = pool(all, { mode: 'mean', prefixTokens: 1 });
    const [a, b] = [(await rows.read()) as Float32Array, (await expected.read()) as Float32Array];
    const largest = b.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    for (const [i, value] of a.entries()) expect(Math.abs(value - b[i]!)).toBeLessThan(0.03 * largest);
    weights.weight1.dispose();
    weights.weight2.dispose();
  });
});

it('mlp keeps nothing in memory that grows with rows times the hidden width, but what it saves', async () => {
  const [I, H] = [8, 64];
  await onEachTarget(async (device) => {
    const weights = weightsOf(device, new Random(8), I, H, 'bf16');
    // What forward and backward hold at most; both numbers of rows are whole steps.
    const peaksOf = (rows: number): [forward: number, backward: number] => {
      using x = Tensor.zeros(device, [rows, I], { dtype: 'bf16' });
      using gradOut = Tensor.zeros(device, [rows, I], { dtype: 'bf16' });
      const tape = new Tape();
      tape.watch(x);
      const before = device.memory().currentBytes;
      device.resetPeak();
      const out = tape.run(() => mlp(x, weights, x));
      const forward = device.memory().peakBytes - before;
      tape.seed(out, gradOut);
      out.dispose();
      device.resetPeak();
      tape.backward();
      tape.takeGradient(x).dispose();
      return [forward, device.memory().peakBytes - before];
    };
    const [few, more] = [8192, 3 * 8192];
    const [[forward, backward], [forwardOfMore, backwardOfMore]] = [peaksOf(few), peaksOf(more)];
    expect(forwardOfMore - forward).toBe((more - few) * (H + 2 * I)); // slope and result
    expect(backwardOfMore - backward).toBeLessThanOrEqual((more - few) * (H + 8 * I));
    cleanUp();
  });
});
