import { expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { kernels } from '../../lib/kernels';
import { attention, classAttention, type PackedWeight, packWeight, projectedAttention } from '../../lib/ops';
import { Tensor } from '../../lib/tensor';
import { onCpu, onEachTarget, openVariant, variants } from '../each_target';
import { type BadCall, type Case, kernelTest } from '../kernel_test';
import { classAttention as classReference, attention as reference } from '../reference/attention';
import { linear } from '../reference/linear';

type MakeTensor = Parameters<BadCall['call']>[0];
type Shape = [B: number, N: number, H: number, E: number];

// One f32 number a row and head beside qkv.
function attentionCase(name: string, [B, N, H, E]: Shape, extra: Partial<Case> = {}): Case {
  return {
    name,
    inputs: { qkv: [B, N, 3 * H * E] },
    options: { heads: H },
    keeps: () => B * H * N * 4,
    ...extra,
  };
}

const batched = (name: string, shape: Shape, extra: Partial<Case> = {}): Case =>
  attentionCase(`${name}, batched`, shape, { options: { heads: shape[2], algorithm: 'batched' }, ...extra });

kernelTest('attention', {
  goldens: [
    { file: 'attention_2x17x4x8', inputs: { qkv: 'qkv' }, output: 'y', options: { heads: 4 } },
    { file: 'attention_1x197x2x64', inputs: { qkv: 'qkv' }, output: 'y', options: { heads: 2 } },
  ],
  cases: [
    // p is 1 whatever q and k are: they have no gradient.
    attentionCase('one token', [2, 1, 2, 4]),
    attentionCase('one number a head', [1, 7, 3, 1]),
    attentionCase('one head', [3, 5, 1, 3]),
    ...[15, 16, 17, 31, 33].map((E) => attentionCase(`heads of ${E}`, [1, 4, 2, E])),
    // Widths that kernels are made for, widths that are filled up to them, in rows of whole 16 bytes and others, and beyond.
    ...[24, 64, 72, 80, 90, 96, 128, 136].map((E) => attentionCase(`heads of ${E}`, [1, 5, 1, E])),
    // Around the padding of rows and vectors, and around one tile of queries.
    ...[6, 15, 16, 17, 18].map((N) => attentionCase(`${N} tokens`, [1, N, 1, 8])),
    ...[72, 73].map((N) => attentionCase(`${N} tokens`, [1, N, 1, 5])),
    // More tiles than a small GPU has blocks; and as many keys as a block has warps for.
    attentionCase('24 heads', [2, 40, 12, 8]),
    attentionCase('64 tokens, heads of 128', [1, 64, 1, 128], { only: 'bf16' }),
    attentionCase('ViT-B head', [2, 197, 2, 64], { long: true }),
    attentionCase('1025 tokens', [1, 1025, 1, 4], { long: true }),
    // Tiles on both sides of a tile's edge in several blocks, for the widths whose tiles differ.
    // Wider heads' tiles differ in bf16 alone; in f32 their longer sums come to the bound.
    ...[32, 64, 80].map((E) => attentionCase(`130 tokens, heads of ${E}`, [1, 130, 2, E])),
    ...[96, 128].map((E) => attentionCase(`130 tokens, heads of ${E}`, [1, 130, 2, E], { only: 'bf16' })),
    ...(onCpu
      ? []
      : [
          batched('one token', [2, 1, 2, 4]),
          batched('fewer images than heads', [2, 9, 3, 8]),
          batched('fewer heads than images', [5, 9, 2, 8]),
          batched('heads of 5', [1, 17, 2, 5]),
          batched('ViT-B head', [2, 197, 2, 64]),
          // Backward's scratch memory holds 5 of 6 images, and 7 of 9 heads. Of so many numbers a few have sums that cancel, and so
          // many scores are not for every test.
          batched('6 images of 300 tokens', [6, 300, 16, 2], {
            floor: { f32: 1e-6, bf16: 4e-3 },
            degenerate: true,
            long: true,
          }),
          batched('9 heads of 1025 tokens', [1, 1025, 9, 8], {
            floor: { f32: 1e-6, bf16: 4e-3 },
            degenerate: true,
            long: true,
          }),
        ]),
    attentionCase('negative scale', [1, 9, 2, 8], { options: { heads: 2, scale: -0.3 } }),
    attentionCase('zeros', [1, 9, 2, 8], {
      inputs: { qkv: { shape: [1, 9, 48], values: () => 0 } },
      degenerate: true,
    }),
    attentionCase('all tokens equal', [1, 9, 2, 8], {
      inputs: { qkv: { shape: [1, 9, 48], values: (i) => Math.sin(i % 48) } },
      degenerate: true,
      floor: { f32: 1e-6, bf16: 4e-3 },
    }),
    attentionCase('denormal numbers', [1, 9, 2, 8], {
      inputs: { qkv: { shape: [1, 9, 48], scale: 1e-39 } },
      degenerate: true,
      floor: { f32: 1e-6, bf16: 4e-3 },
    }),
    // Scores of hundreds, known to 3e-5: p is nearly one-hot, known to that fraction, and gradients are ten times as large.
    attentionCase('large scores', [1, 9, 2, 8], {
      inputs: { qkv: { shape: [1, 9, 48], scale: 10 } },
      floor: { f32: 5e-4, bf16: 5e-2 },
    }),
  ],
  run: ({ qkv }, { heads, scale, algorithm = 'tiled' }) => attention(qkv!, { heads, scale, algorithm }),
  reference: ({ qkv }, { heads, scale }) => reference(qkv!, heads, scale),
  computeInputs: ['qkv'],
  differentiable: ['qkv'],
  // f32: p is as exact as its score, a sum of E products; then come sums over N tokens, one number after the other, whose terms cancel.
  // bf16: p and ds are rounded where the processor multiplies bf16, and the result is.
  tolerance: { f32: { out: 50, grad: 60 }, bf16: { out: 4, grad: 12 } },
  bad: [
    {
      name: 'channels that do not fall into 3 · heads parts',
      call: (tensor) => attention(tensor([2, 5, 24]), { heads: 3 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'qkv',
      message: /attentionForward: 'qkv' is 24 channels, expected a multiple of 3 heads = 9/,
    },
    {
      name: 'channels that do not fall into thirds',
      call: (tensor) => attention(tensor([2, 5, 32]), { heads: 2 }),
      code: 'SIDETUNE_SHAPE',
    },
    {
      name: 'qkv of two dimensions',
      call: (tensor) => attention(tensor([5, 24]), { heads: 2 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'qkv',
      message: /expected \[B, N, C\]/,
    },
    {
      name: 'qkv of integers',
      call: (tensor) => attention(tensor([2, 5, 24], 'i32'), { heads: 2 }),
      code: 'SIDETUNE_DTYPE',
      argument: 'qkv',
    },
    {
      name: 'no heads',
      call: (tensor) => attention(tensor([2, 5, 24]), { heads: 0 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'heads',
      message: /expected a number of at least 1/,
    },
    {
      name: 'half a head',
      call: (tensor) => attention(tensor([2, 5, 24]), { heads: 1.5 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'heads',
    },
    {
      name: 'options left out',
      call: (tensor) => attention(tensor([2, 5, 24]), undefined as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'heads',
    },
    {
      name: 'an unknown option',
      call: (tensor) => attention(tensor([2, 5, 24]), { heads: 2, mask: true } as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'mask',
    },
    {
      name: 'infinite scale',
      call: (tensor) => attention(tensor([2, 5, 24]), { heads: 2, scale: Number.POSITIVE_INFINITY }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'scale',
    },
    {
      name: 'an unknown algorithm',
      call: (tensor) => attention(tensor([2, 5, 24]), { heads: 2, algorithm: 'fast' as never }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'algorithm',
      message: /expected one of 'tiled', 'batched'/,
    },
    ...(onCpu
      ? [
          {
            name: 'batched on the CPU',
            call: (tensor: MakeTensor) => attention(tensor([2, 5, 24]), { heads: 2, algorithm: 'batched' as const }),
            code: 'SIDETUNE_ARGUMENT',
            message: /attentionForward: 'algorithm' is 'batched', which is for CUDA devices/,
          },
          {
            name: 'backward: batched on the CPU',
            call: (tensor: MakeTensor) =>
              kernels.attentionBackward({
                gradOut: tensor([2, 5, 8]),
                qkv: tensor([2, 5, 24]),
                lse: tensor([2, 2, 5]),
                heads: 2,
                algorithm: 'batched',
              }),
            code: 'SIDETUNE_ARGUMENT',
            message: /attentionBackward: 'algorithm' is 'batched'/,
          },
        ]
      : []),
    {
      name: 'a disposed tensor',
      call: (tensor) => {
        const qkv = tensor([2, 5, 24]);
        qkv.dispose();
        return attention(qkv, { heads: 2 });
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'qkv',
    },
    {
      name: 'backward: qkv of another width than gradOut',
      call: (tensor) =>
        kernels.attentionBackward({
          gradOut: tensor([2, 5, 8]),
          qkv: tensor([2, 5, 27]),
          lse: tensor([2, 2, 5]),
          heads: 2,
        }),
      code: 'SIDETUNE_SHAPE',
      argument: 'qkv',
    },
    {
      name: 'backward: log-sum-exp of another number of heads',
      call: (tensor) =>
        kernels.attentionBackward({
          gradOut: tensor([2, 5, 8]),
          qkv: tensor([2, 5, 24]),
          lse: tensor([2, 4, 5]),
          heads: 2,
        }),
      code: 'SIDETUNE_SHAPE',
      argument: 'lse',
      message: /expected \[B, H, N\] = \[2, 2, 5\]/,
    },
    {
      name: 'backward: channels that do not fall into heads',
      call: (tensor) =>
        kernels.attentionBackward({
          gradOut: tensor([2, 5, 8]),
          qkv: tensor([2, 5, 24]),
          lse: tensor([2, 3, 5]),
          heads: 3,
        }),
      code: 'SIDETUNE_SHAPE',
      argument: 'gradOut',
      message: /attentionBackward: 'gradOut' is 8 channels, expected a multiple of heads = 3/,
    },
  ],
});

// The widest heads take one stage of tiles where a GPU has little shared memory.
it('wide heads have the same bits on every variant of the device', async () => {
  const results = [];
  for (const variant of variants) {
    await using device = await openVariant(variant);
    const draw = (shape: number[], salt: number): Tensor =>
      Tensor.from(
        device,
        Float32Array.from({ length: shape.reduce((p, n) => p * n, 1) }, (_, i) => Math.sin(salt + i * i)),
        shape,
        { dtype: 'bf16' },
      );
    const qkv = draw([1, 64, 384], 1);
    const { out, lse } = kernels.attentionForward({ qkv, heads: 1 }, { save: true });
    const { gradQkv } = kernels.attentionBackward({ gradOut: draw([1, 64, 128], 2), qkv, lse: lse!, heads: 1 });
    results.push([await out.read(), await gradQkv!.read()]);
  }
  for (const other of results.slice(1)) expect(other).toEqual(results[0]);
});

const made: PackedWeight[] = [];
const packed = (weight: Tensor): PackedWeight => {
  made.push(packWeight(weight));
  return made.at(-1)!;
};

// q, k and v themselves beside the statistics; steps are of 8 images.
function projectedCase(name: string, [B, N, H, E]: Shape, I: number): Case {
  return {
    name,
    inputs: { x: [B, N, I], weight: { shape: [3 * H * E, I], scale: 1 / Math.sqrt(I) }, bias: [3 * H * E] },
    options: { heads: H },
    keeps: (bytes) => B * N * 3 * H * E * bytes + B * H * N * 4,
  };
}

kernelTest('attention: projected', {
  cases: [
    projectedCase('one image', [1, 5, 2, 4], 8),
    projectedCase('of another width', [2, 7, 1, 6], 11),
    projectedCase('one step', [8, 3, 2, 4], 8),
    projectedCase('one image more than a step', [9, 3, 1, 5], 7),
    projectedCase('three steps', [19, 4, 2, 4], 8),
  ],
  run: ({ x, weight, bias }, options) => projectedAttention(x!, packed(weight!), bias, { heads: options.heads }),
  cleanUp: () => {
    for (const weight of made.splice(0)) weight.dispose();
  },
  reference: ({ x, weight, bias }, { heads }) => reference(linear(x!, weight!, { bias }), heads),
  computeInputs: ['x', 'weight'],
  differentiable: ['x'],
  // As attention, and in bf16 q, k, v and their gradients are rounded in between.
  tolerance: { f32: { out: 80, grad: 160 }, bf16: { out: 8, grad: 20 } },
  bad: [
    {
      name: 'heads that do not divide the layer',
      call: (tensor) => {
        using weight = packWeight(tensor([24, 8]));
        return projectedAttention(tensor([2, 5, 8]), weight, undefined, { heads: 3 });
      },
      code: 'SIDETUNE_SHAPE',
      argument: 'qkv',
    },
  ],
});

function classCase(name: string, [B, N, H, E]: Shape, I: number, extra: Partial<Case> = {}): Case {
  return {
    name,
    inputs: { x: [B, N, I], weight: { shape: [3 * H * E, I], scale: 1 / Math.sqrt(I) }, bias: [3 * H * E] },
    options: { heads: H },
    ...extra,
  };
}

kernelTest('attention: class', {
  cases: [
    classCase('one number', [1, 1, 1, 1], 1),
    classCase('one token', [3, 1, 2, 4], 8),
    classCase('heads in groups and beside them', [2, 5, 6, 3], 18),
    ...[15, 17, 33].map((I) => classCase(`width ${I}`, [2, 7, 1, I], I)),
    classCase('of another width', [2, 7, 1, 6], 11),
    classCase('a ViT-B head', [2, 197, 4, 64], 256),
    classCase('more heads than a small GPU has blocks', [7, 40, 12, 2], 24),
    classCase('300 tokens', [1, 300, 2, 8], 16),
    classCase('negative scale', [2, 9, 2, 8], 16, { options: { heads: 2, scale: -0.3 } }),
    classCase('large scores', [2, 9, 2, 8], 16, {
      inputs: { x: { shape: [2, 9, 16], scale: 30 }, weight: { shape: [48, 16], scale: 0.3 }, bias: [48] },
      floor: { f32: 5e-4, bf16: 0.5 },
    }),
  ],
  run: ({ x, weight, bias }, options) => classAttention(x!, weight!, bias, { heads: 0, ...options }),
  reference: ({ x, weight, bias }, { heads, scale }) => classReference(x!, weight!, bias, heads, scale),
  computeInputs: ['x', 'weight'],
  differentiable: [],
  // Nothing is rounded but the result.
  tolerance: { f32: { out: 80, grad: 0 }, bf16: { out: 2, grad: 0 } },
  bad: [
    {
      name: 'heads that do not divide the layer',
      call: (tensor) => classAttention(tensor([2, 5, 8]), tensor([24, 8]), undefined, { heads: 3 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
      message: /'weight' is 24 channels, expected a multiple of 3 heads = 9/,
    },
    {
      name: 'a weight of another width',
      call: (tensor) => classAttention(tensor([2, 5, 8]), tensor([24, 9]), undefined, { heads: 2 }),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
    },
    {
      name: 'a gradient',
      call: (tensor) => {
        const [x, weight] = [tensor([2, 5, 8]), tensor([24, 8])];
        const tape = new Tape();
        tape.watch(weight);
        return tape.run(() => classAttention(x, weight, undefined, { heads: 2 }));
      },
      code: 'SIDETUNE_ARGUMENT',
      argument: 'weight',
      message: /a gradient of 'weight' is wanted, expected none: use attention/,
    },
  ],
});

it('class attention takes a weight in f32 beside tokens in bf16', async () => {
  await onEachTarget(async (device) => {
    const draw = (shape: number[], dtype: 'f32' | 'bf16', salt: number): Tensor =>
      Tensor.from(
        device,
        Float32Array.from({ length: shape.reduce((p, n) => p * n, 1) }, (_, i) => Math.sin(salt + i * i)),
        shape,
        { dtype },
      );
    using x = draw([2, 7, 16], 'bf16', 1);
    using weight = draw([48, 16], 'f32', 2);
    using row = classAttention(x, weight, undefined, { heads: 2 });
    const expected = classReference(
      { shape: x.shape, data: Float64Array.from((await x.read()) as Float32Array) },
      { shape: weight.shape, data: Float64Array.from((await weight.read()) as Float32Array) },
      undefined,
      2,
    );
    for (const [i, value] of ((await row.read()) as Float32Array).entries()) {
      expect(Math.abs(value - expected.data[i]!)).toBeLessThan(2 ** -8 * Math.abs(expected.data[i]!) + 1e-5);
    }
  });
});
