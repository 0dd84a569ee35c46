import { expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { kernels } from '../../lib/kernels';
import { layerNorm, layerNormProject, lowRankProject } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type Case, type KernelTest, kernelTest } from '../kernel_test';
import { layerNorm as reference } from '../reference/layer_norm';
import * as lowRank from '../reference/low_rank';

// Two f32 numbers a row beside x.
function layerNormCase(name: string, shape: number[], extra: Partial<Case> = {}): Case {
  const d = shape.at(-1)!;
  const rows = shape.reduce((product, length) => product * length, 1) / d;
  return {
    name,
    inputs: { x: { shape, scale: 3, mean: 1 }, weight: { shape: [d], mean: 1 }, bias: [d] },
    options: { eps: 1e-6 },
    keeps: () => rows * 8,
    ...extra,
  };
}

const harness = (extra: Partial<KernelTest>): KernelTest => ({
  goldens: [
    {
      file: 'layer_norm_3x17x24',
      inputs: { x: 'x', weight: 'gamma', bias: 'beta' },
      output: 'y',
      options: { eps: 1e-6 },
    },
  ],
  cases: [
    layerNormCase('one row', [1, 24]),
    layerNormCase('three rows of 7', [3, 7]),
    ...[15, 16, 17, 31, 33].map((d) => layerNormCase(`width ${d}`, [2, 3, d])),
    layerNormCase('197 tokens', [1, 197, 40]),
    layerNormCase('ViT-B row', [2, 5, 768]),
    layerNormCase('large eps', [4, 20], { options: { eps: 0.5 } }),
    // A row of one number is its own mean: xhat is 0.
    layerNormCase('width 1', [3, 1], { degenerate: true }),
    layerNormCase('all rows equal', [3, 24], {
      inputs: { x: { shape: [3, 24], values: () => 2 }, weight: [24], bias: [24] },
      degenerate: true,
      // xhat = 0/√eps: a rounding of the mean is a thousand times larger in the result.
      floor: { f32: 1e-3, bf16: 2e-2 },
    }),
    layerNormCase('large numbers', [2, 24], {
      inputs: { x: { shape: [2, 24], scale: 1e4 }, weight: { shape: [24], mean: 1 }, bias: [24] },
    }),
  ],
  run: ({ x, weight, bias }, options) => layerNorm(x!, weight!, bias!, options),
  reference: ({ x, weight, bias }, { eps }) => reference(x!, weight!, bias!, eps),
  computeInputs: ['x'],
  differentiable: ['x', 'weight', 'bias'],
  // Statistics are sums of d numbers in lanes: a few roundings; gradients pass through two such sums and a product.
  tolerance: { f32: { out: 12, grad: 40 }, bf16: { out: 2, grad: 4 } },
  bad: [
    {
      name: 'weight of another width',
      call: (tensor) => layerNorm(tensor([2, 8]), tensor([7]), tensor([8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
      message: /layerNormForward: 'weight' has shape \[7\], expected \[d\] = \[8\] \(d from 'x'\)/,
    },
    {
      name: 'weight of two dimensions',
      call: (tensor) => layerNorm(tensor([2, 8]), tensor([8, 1]), tensor([8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
    },
    {
      name: 'x of integers',
      call: (tensor) => layerNorm(tensor([2, 8], 'i32'), tensor([8]), tensor([8])),
      code: 'SIDETUNE_DTYPE',
      argument: 'x',
    },
    {
      name: 'bf16 bias',
      call: (tensor) => layerNorm(tensor([2, 8]), tensor([8]), tensor([8], 'bf16')),
      code: 'SIDETUNE_DTYPE',
      argument: 'bias',
    },
    {
      name: 'NaN eps',
      call: (tensor) => layerNorm(tensor([2, 8]), tensor([8]), tensor([8]), { eps: Number.NaN }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'eps',
      message: /expected a number above 0/,
    },
    {
      name: 'eps of 0',
      call: (tensor) => layerNorm(tensor([2, 8]), tensor([8]), tensor([8]), { eps: 0 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'eps',
    },
    {
      name: 'a disposed tensor',
      call: (tensor) => {
        const weight = tensor([8]);
        weight.dispose();
        return layerNorm(tensor([2, 8]), weight, tensor([8]));
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'weight',
    },
    {
      name: 'something that is no tensor',
      call: (tensor) => layerNorm(tensor([2, 8]), {} as never, tensor([8])),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'weight',
    },
    {
      name: 'a missing tensor',
      call: (tensor) => layerNorm(tensor([2, 8]), tensor([8]), undefined as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'bias',
    },
  ],
  ...extra,
});

function projectCase(name: string, shape: number[], r: number, extra: Partial<Case> = {}): Case {
  const { inputs, ...plain } = layerNormCase(name, shape);
  return { ...plain, inputs: { ...inputs, a: { shape: [shape.at(-1)!, r], scale: 0.3 } }, ...extra };
}

const projectCases = [
  projectCase('one row', [1, 24], 2),
  ...[1, 2, 3, 8, 9, 20].map((r) => projectCase(`rank ${r}`, [2, 3, 20], r)),
  ...[15, 16, 17, 31, 33].map((d) => projectCase(`width ${d}`, [2, 3, d], 2)),
  projectCase('197 tokens', [1, 197, 40], 2),
  projectCase('ViT-B row', [2, 5, 768], 2),
  projectCase('large numbers', [2, 24], 2, {
    inputs: { x: { shape: [2, 24], scale: 1e4 }, weight: { shape: [24], mean: 1 }, bias: [24], a: [24, 2] },
  }),
];
const projectTest = {
  cases: projectCases,
  computeInputs: ['x'],
};

let other: Tensor | undefined;
const cleanUp = (): void => other?.dispose();

// Each result on its own, and then a tensor that both go into.
kernelTest('layer_norm: project, what is normalised', {
  ...projectTest,
  run: ({ x, weight, bias, a }, options) => {
    const { out, u } = layerNormProject(x!, weight!, bias!, a!, options);
    other = u;
    return out;
  },
  cleanUp,
  reference: ({ x, weight, bias }, { eps }) => reference(x!, weight!, bias!, eps),
  differentiable: ['x', 'weight', 'bias'],
  tolerance: { f32: { out: 14, grad: 40 }, bf16: { out: 2, grad: 4 } },
  bad: [
    {
      name: 'a of another width',
      call: (tensor) => layerNormProject(tensor([2, 8]), tensor([8]), tensor([8]), tensor([7, 2])),
      code: 'SIDETUNE_SHAPE',
      argument: 'a',
      message: /layerNormProjectForward: 'a' has shape \[7, 2\], expected \[d, r\]/,
    },
    {
      name: 'a in bf16',
      call: (tensor) => layerNormProject(tensor([2, 8]), tensor([8]), tensor([8]), tensor([8, 2], 'bf16')),
      code: 'SIDETUNE_DTYPE',
      argument: 'a',
    },
  ],
});

kernelTest('layer_norm: project, what is read', {
  ...projectTest,
  run: ({ x, weight, bias, a }, options) => {
    const { out, u } = layerNormProject(x!, weight!, bias!, a!, options);
    other = out;
    return u;
  },
  cleanUp,
  reference: ({ x, a }) => lowRank.lowRankProject(x!, a!),
  differentiable: ['x', 'a'],
  outputDtype: 'f32',
  tolerance: { f32: { out: 16, grad: 60 }, bf16: { out: 1, grad: 3 } },
  bad: [],
});

it.each(['f32', 'bf16'] as const)('both gradients meet in x, and r numbers a row come of it, %s', async (dtype) => {
  await onEachTarget(async (device) => {
    const [rows, d, r] = [21, 40, 3];
    const waves = (shape: number[], seed: number, type: typeof dtype = 'f32'): Tensor =>
      Tensor.from(
        device,
        Float32Array.from({ length: shape.reduce((p, n) => p * n, 1) }, (_, i) => Math.sin(i * 1.7 + seed)),
        shape,
        { dtype: type },
      );
    const run = async (fused: boolean): Promise<number[][]> =>
      await scope(async () => {
        const [x, weight, bias, a] = [waves([rows, d], 1, dtype), waves([d], 2), waves([d], 3), waves([d, r], 4)];
        const tape = new Tape();
        for (const tensor of [x, a]) tape.watch(tensor);
        const { out, u } = tape.run(() =>
          fused ? layerNormProject(x, weight, bias, a) : { out: layerNorm(x, weight, bias), u: lowRankProject(x, a) },
        );
        const kept = tape.report().map(({ op, name, bytes }) => [op, name, bytes]);
        expect(kept.filter(([, , bytes]) => bytes === x.bytes)).toEqual([['layerNorm', 'x', x.bytes]]);
        tape.seed(out, waves([rows, d], 5, dtype));
        tape.seed(u, waves([rows, r], 6));
        tape.backward();
        using gradX = tape.takeGradient(x);
        using gradA = tape.takeGradient(a);
        const results: number[][] = [];
        for (const tensor of [out, u, gradX, gradA]) results.push(Array.from((await tensor.read()) as Float32Array));
        return results;
      });
    const [fused, apart] = [await run(true), await run(false)];
    const unit = dtype === 'bf16' ? 2 ** -8 : 2 ** -20;
    for (const [index, numbers] of fused.entries()) {
      const largest = Math.max(...apart[index]!.map(Math.abs));
      for (const [i, value] of numbers.entries())
        expect(Math.abs(value - apart[index]![i]!)).toBeLessThanOrEqual(2 * unit * largest);
    }
  });
});
kernelTest('layer_norm', harness({}));

// Normalised x in bytes, where weight and bias are frozen and x is in bf16: gradients within the same roundings.
const { cases } = harness({});
kernelTest(
  'layer_norm: compact',
  harness({
    cases: cases.map((each) => ({
      ...each,
      // In f32 nothing is different.
      ...(each.name === 'one row' ? {} : { only: 'bf16' as const }),
      keeps: (bytes) =>
        each.keeps!(bytes) +
        (bytes === 2 ? (each.inputs.x as { shape: number[] }).shape.reduce((product, n) => product * n, 1) : 0),
    })),
    run: ({ x, weight, bias }, options) => layerNorm(x!, weight!, bias!, { ...options, compact: true }),
    differentiable: ['x'],
    bad: [
      {
        name: 'neither x nor its bytes',
        call: (tensor) =>
          kernels.layerNormBackward({ gradOut: tensor([2, 8]), weight: tensor([8]), rstd: tensor([2]) }),
        code: 'SIDETUNE_ARGUMENT',
        argument: 'xhat',
      },
      {
        name: 'bytes without their step',
        call: (tensor) =>
          kernels.layerNormBackward({
            gradOut: tensor([2, 8]),
            weight: tensor([8]),
            rstd: tensor([2]),
            xhat: tensor([2, 8], 'u8'),
          }),
        code: 'SIDETUNE_ARGUMENT',
        argument: 'xhat',
      },
    ],
  }),
);
