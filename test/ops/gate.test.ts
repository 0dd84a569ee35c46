import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { kernels } from '../../lib/kernels';
import { fill_, gatedMix } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { gateOf, gatedMix as reference } from '../reference/gate';

// a and b are inputs: nothing beside them is kept.
function gateCase(name: string, shape: number[], alpha = 0.03, extra: Partial<Case> = {}): Case {
  return {
    name,
    inputs: {
      a: { shape, scale: 2, mean: 1 },
      b: { shape, scale: 2, mean: -1 },
      alpha: { shape: [1], values: () => alpha },
    },
    options: { temperature: 0.1 },
    keeps: () => 0,
    ...extra,
  };
}

kernelTest('gate', {
  cases: [
    gateCase('one number', [1]),
    gateCase('one row', [1, 24]),
    gateCase('a row without others', [20]),
    gateCase('three rows of 7', [3, 7]),
    ...[8, 15, 16, 17, 31, 33].map((size) => gateCase(`${size} numbers`, [size])),
    gateCase('197 tokens', [1, 197, 12]),
    ...[4095, 4096, 4097].map((size) => gateCase(`${size} numbers, about a group`, [size])),
    gateCase('several threads', [2, 197, 97]),
    gateCase('temperature 1', [3, 17], -0.7, { options: {} }),
    gateCase('nearly open', [3, 17], 0.5),
    gateCase('nearly shut', [3, 17], -0.5),
    ...[1e4, -1e4].map((alpha) => gateCase(`alpha of ${alpha}`, [3, 17], alpha, { degenerate: true })),
    gateCase('a temperature of hardly anything', [3, 17], 1, { options: { temperature: 1e-30 }, degenerate: true }),
    gateCase('zeros', [3, 8], 0.03, {
      inputs: {
        a: { shape: [3, 8], values: () => 0 },
        b: { shape: [3, 8], values: () => 0 },
        alpha: { shape: [1], values: () => 0 },
      },
      degenerate: true,
    }),
    gateCase('large numbers', [2, 24], 0.03, {
      inputs: {
        a: { shape: [2, 24], scale: 1e4 },
        b: { shape: [2, 24], scale: 1e4 },
        alpha: { shape: [1], values: () => 0.05 },
      },
    }),
    gateCase('small numbers', [2, 24], 0.03, {
      inputs: {
        a: { shape: [2, 24], scale: 1e-6 },
        b: { shape: [2, 24], scale: 1e-6 },
        alpha: { shape: [1], values: () => 0.05 },
      },
    }),
  ],
  run: ({ a, b, alpha }, options) => gatedMix(a!, b!, alpha!, options),
  reference: ({ a, b, alpha }, { temperature = 1 }) => reference(a!, b!, alpha!, temperature),
  computeInputs: ['a', 'b'],
  differentiable: ['a', 'b', 'alpha'],
  // mu, two products and a sum; alpha's gradient is a sum of up to 38,000 products in groups.
  tolerance: { f32: { out: 5, grad: 40 }, bf16: { out: 2, grad: 2 } },
  bad: [
    {
      name: 'b of another shape',
      call: (tensor) => gatedMix(tensor([2, 8]), tensor([2, 7]), tensor([1])),
      code: 'SIDETUNE_SHAPE',
      argument: 'b',
    },
    {
      name: 'b of another dtype',
      call: (tensor) => gatedMix(tensor([2, 8]), tensor([2, 8], 'bf16'), tensor([1])),
      code: 'SIDETUNE_DTYPE',
      argument: 'b',
      message: /gateForward: 'b' is bf16, expected f32 like 'a'/,
    },
    {
      name: 'a of integers',
      call: (tensor) => gatedMix(tensor([2, 8], 'i32'), tensor([2, 8]), tensor([1])),
      code: 'SIDETUNE_DTYPE',
      argument: 'a',
    },
    {
      name: 'two gates',
      call: (tensor) => gatedMix(tensor([2, 8]), tensor([2, 8]), tensor([2])),
      code: 'SIDETUNE_SHAPE',
      argument: 'alpha',
    },
    {
      name: 'alpha in bf16',
      call: (tensor) => gatedMix(tensor([2, 8]), tensor([2, 8]), tensor([1], 'bf16')),
      code: 'SIDETUNE_DTYPE',
      argument: 'alpha',
    },
    ...[0, -0.1, Number.NaN, Number.POSITIVE_INFINITY].map((temperature) => ({
      name: `temperature ${temperature}`,
      call: (tensor: (shape: readonly number[]) => Tensor) =>
        gatedMix(tensor([8]), tensor([8]), tensor([1]), { temperature }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'temperature',
    })),
    {
      name: 'an unknown option',
      call: (tensor) => gatedMix(tensor([8]), tensor([8]), tensor([1]), { tau: 1 } as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'tau',
    },
    {
      name: 'a disposed tensor',
      call: (tensor) => {
        const b = tensor([8]);
        b.dispose();
        return gatedMix(tensor([8]), b, tensor([1]));
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'b',
    },
    {
      name: 'a missing tensor',
      call: (tensor) => gatedMix(tensor([8]), tensor([8]), undefined as never),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'alpha',
    },
    ...(['a', 'b'] as const).map((missing) => ({
      name: `a gradient of alpha without ${missing}`,
      call: (tensor: (shape: readonly number[]) => Tensor) => {
        const streams = { a: tensor([8]), b: tensor([8]), [missing]: undefined };
        return kernels.gateBackward(
          { gradOut: tensor([8]), ...streams, alpha: tensor([1]), gradAlpha: tensor([1]) },
          { wanted: { gradA: false, gradB: false }, kind: 'gradients' },
        );
      },
      code: 'SIDETUNE_ARGUMENT',
      argument: missing,
      message: new RegExp(`'${missing}' is missing, expected a tensor, since 'gradAlpha' is wanted`),
    })),
  ],
});

describe('gate', () => {
  it('adds to a gradient of alpha that is there', async () => {
    await onEachTarget(async (device) => {
      using gradOut = Tensor.from(device, [1, 2, 3], [3]);
      using a = Tensor.from(device, [1, 1, 1], [3]);
      using b = Tensor.from(device, [0, -1, 3], [3]);
      using alpha = Tensor.zeros(device, [1]);
      using gradAlpha = Tensor.from(device, [10], [1]);
      kernels.gateBackward(
        { gradOut, a, b, alpha, gradAlpha, temperature: 0.5 },
        { wanted: { gradA: false, gradB: false }, kind: 'gradients' },
      );
      expect([...(await gradAlpha.read())]).toEqual([10 + (0.25 / 0.5) * (1 + 4 - 6)]);
    });
  });

  it('sums many groups', async () => {
    const size = 4096 * 150 + 3;
    await onEachTarget(async (device) => {
      using gradOut = fill_(Tensor.empty(device, [size]), 1);
      using a = fill_(Tensor.empty(device, [size]), 2);
      using b = fill_(Tensor.empty(device, [size]), 1);
      using alpha = Tensor.zeros(device, [1]);
      using gradAlpha = Tensor.zeros(device, [1]);
      kernels.gateBackward(
        { gradOut, a, b, alpha, gradAlpha },
        { wanted: { gradA: false, gradB: false }, kind: 'gradients' },
      );
      expect([...(await gradAlpha.read())]).toEqual([size / 4]);
    });
  });

  it('at alpha of ±1e4 is one of its streams, to the bit, without a slope', async () => {
    await onEachTarget(async (device) => {
      await scope(async () => {
        const a = Tensor.from(device, [1, -2, 3e38, 1e-38], [4]);
        const b = Tensor.from(device, [5, 6, -3e38, 1], [4]);
        const gradOut = Tensor.from(device, [1, 1, 1, 1], [4]);
        for (const [value, open, shut] of [
          [1e4, a, [1, 0]],
          [-1e4, b, [0, 1]],
        ] as const) {
          const alpha = Tensor.from(device, [value], [1]);
          const out = gatedMix(a, b, alpha, { temperature: 0.1 });
          expect(await out.read()).toEqual(await open.read());
          const gradAlpha = Tensor.zeros(device, [1]);
          const finite = Tensor.from(device, [1, 2, 3, 4], [4]);
          const { gradA, gradB } = kernels.gateBackward(
            { gradOut, a: finite, b: gradOut, alpha, gradAlpha, temperature: 0.1 },
            { kind: 'gradients' },
          );
          expect([(await gradA.read())[0], (await gradB.read())[0], (await gradAlpha.read())[0]]).toEqual([...shut, 0]);
        }
      });
    });
  });

  it('loses no digits on the side that is nearly shut', async () => {
    const [open, shut] = gateOf(3, 0.1);
    await onEachTarget(async (device) => {
      using gradOut = Tensor.from(device, [1], [1]);
      for (const sign of [1, -1]) {
        using alpha = Tensor.from(device, [3 * sign], [1]);
        const { gradA, gradB } = kernels.gateBackward({ gradOut, alpha, temperature: 0.1 }, { kind: 'gradients' });
        const grads = [(await gradA.read())[0]!, (await gradB.read())[0]!];
        gradA.dispose();
        gradB.dispose();
        const [large, small] = sign > 0 ? grads : grads.reverse();
        expect(Math.abs(large! / open - 1)).toBeLessThan(1e-6);
        expect(Math.abs(small! / shut - 1)).toBeLessThan(1e-5); // e³⁰ from a rounded 30
      }
    });
  });

  it('keeps its streams only where alpha needs a gradient', async () => {
    await onEachTarget(async (device) => {
      using a = Tensor.zeros(device, [3, 5]);
      using b = Tensor.zeros(device, [3, 5]);
      using alpha = Tensor.zeros(device, [1]);
      for (const [watched, names] of [
        [a, ['alpha']],
        [b, ['alpha']],
        [alpha, ['a', 'b', 'alpha']],
      ] as const) {
        const tape = new Tape();
        tape.watch(watched);
        using _out = tape.run(() => gatedMix(a, b, alpha));
        expect(tape.report().map(({ name }) => name)).toEqual(names);
        tape.dispose();
      }
    });
  });
});
