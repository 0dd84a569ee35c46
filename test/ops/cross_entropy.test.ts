import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { kernels } from '../../lib/kernels';
import { softmaxCrossEntropy } from '../../lib/ops';
import { Tensor } from '../../lib/tensor';
import { onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { softmaxCrossEntropy as reference } from '../reference/cross_entropy';

function lossCase(name: string, [B, C]: [number, number], labelSmoothing = 0, extra: Partial<Case> = {}): Case {
  return {
    name: `${name}, smoothing ${labelSmoothing}`,
    inputs: {
      logits: { shape: [B, C], scale: 3 },
      labels: { shape: [B], dtype: 'i32', values: (b) => (7 * b + 1) % C },
    },
    options: { labelSmoothing },
    keeps: () => 4 * B,
    ...extra,
  };
}

const zeros = { shape: [3, 7], values: () => 0 };

kernelTest('cross_entropy', {
  goldens: [0, 0.1].map((labelSmoothing) => ({
    file: `cross_entropy_${labelSmoothing}`,
    inputs: { logits: 'logits', labels: 'labels' },
    output: 'loss',
    options: { labelSmoothing },
  })),
  cases: [
    lossCase('one row', [1, 5]),
    lossCase('one row', [1, 5], 0.1),
    lossCase('one class', [3, 1], 0, { degenerate: true }),
    lossCase('two classes', [4, 2], 0.3),
    ...[15, 16, 17, 33].map((C) => lossCase(`${C} classes`, [3, C], C % 2 ? 0.1 : 0)),
    lossCase('several threads', [25, 100], 0.1),
    lossCase('all of the target spread', [3, 6], 1),
    lossCase('zeros', [3, 7], 0.1, {
      inputs: { logits: zeros, labels: { shape: [3], dtype: 'i32', values: (b) => b } },
      degenerate: true,
    }),
    // Softmax is 0 or 1 in f32: the loss is a difference of logits, and its gradient has one rounding of 1e4 in the exponent.
    lossCase('large logits', [3, 9], 0.1, {
      inputs: { logits: { shape: [3, 9], scale: 1e4 }, labels: { shape: [3], dtype: 'i32', values: (b) => b } },
      floor: { f32: 1e-3, bf16: 1e-3 },
    }),
  ],
  run: ({ logits, labels }, options) => {
    const { loss, correct } = softmaxCrossEntropy(logits!, labels!, options);
    correct.dispose();
    return loss;
  },
  reference: ({ logits, labels }, { labelSmoothing }) => reference(logits!, labels!, labelSmoothing),
  computeInputs: [],
  outputDtype: 'f32',
  differentiable: ['logits'],
  // A sum of C exponentials in lanes, a logarithm, a sum of three terms; for the gradient the exponent's rounding, some units of a logit.
  tolerance: { f32: { out: 12, grad: 40 }, bf16: { out: 1, grad: 1 } },
  bad: [
    {
      name: 'as many labels as classes',
      call: (tensor) => softmaxCrossEntropy(tensor([2, 8]), tensor([8], 'i32')),
      code: 'SIDETUNE_SHAPE',
      argument: 'labels',
      message: /'labels' has shape \[8\], expected \[B\] = \[2\] \(B from 'logits'\)/,
    },
    {
      name: 'labels that are no integers',
      call: (tensor) => softmaxCrossEntropy(tensor([2, 8]), tensor([2])),
      code: 'SIDETUNE_DTYPE',
      argument: 'labels',
    },
    {
      name: 'bf16 logits',
      call: (tensor) => softmaxCrossEntropy(tensor([2, 8], 'bf16'), tensor([2], 'i32')),
      code: 'SIDETUNE_DTYPE',
      argument: 'logits',
    },
    {
      name: 'smoothing above 1',
      call: (tensor) => softmaxCrossEntropy(tensor([2, 8]), tensor([2], 'i32'), { labelSmoothing: 1.5 }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'labelSmoothing',
      message: /expected a number from 0 to 1/,
    },
    {
      name: 'NaN smoothing',
      call: (tensor) => softmaxCrossEntropy(tensor([2, 8]), tensor([2], 'i32'), { labelSmoothing: Number.NaN }),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'labelSmoothing',
    },
  ],
});

describe('cross_entropy: what is no gradient', () => {
  it('counts hits; of equal logits the first one wins', async () => {
    const C = 40;
    const logits = new Float32Array(4 * C);
    logits[5] = logits[37] = 2; // first at 5
    logits[C + 5] = logits[C + 37] = 2; // the same, label 37
    logits[2 * C + 39] = 1;
    // The last row is all zeros: class 0.
    await onEachTarget(async (device) => {
      using tensor = Tensor.from(device, logits, [4, C]);
      using labels = Tensor.from(device, Int32Array.of(5, 37, 39, 0), [4]);
      const { loss, correct } = softmaxCrossEntropy(tensor, labels);
      expect([...(await correct.read())]).toEqual([3]);
      loss.dispose();
      correct.dispose();
    });
  });

  it('NaN among the logits gives a NaN loss', async () => {
    await onEachTarget(async (device) => {
      for (const place of [0, 15, 16, 39]) {
        using logits = Tensor.from(
          device,
          Float32Array.from({ length: 40 }, (_, i) => (i === place ? Number.NaN : i)),
          [1, 40],
        );
        using labels = Tensor.from(device, Int32Array.of(3), [1]);
        const { loss, correct } = softmaxCrossEntropy(logits, labels);
        expect(await loss.read()).toEqual(Float32Array.of(Number.NaN));
        loss.dispose();
        correct.dispose();
      }
    });
  });

  it.each([-1, 3, 2 ** 31 - 1, -(2 ** 31)])(
    'label %i of 3 classes is refused late, and the device works again',
    async (label) => {
      await onEachTarget(async (device) => {
        using logits = Tensor.from(device, Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3]);
        using labels = Tensor.from(device, Int32Array.of(2, label), [2]);
        const { loss, correct } = softmaxCrossEntropy(logits, labels);
        await expect(loss.read()).rejects.toMatchObject({
          code: 'SIDETUNE_LATE',
          kernel: 'softmaxCrossEntropyForward',
          message: expect.stringContaining(`'labels' holds ${label} in row 1, expected 0 to 2`),
        });
        using lse = Tensor.from(device, [4, 7], [2]);
        using gradLoss = Tensor.from(device, [1], [1]);
        const { gradLogits } = kernels.softmaxCrossEntropyBackward({ gradLoss, logits, labels, lse });
        await expect(gradLogits.read()).rejects.toMatchObject({ code: 'SIDETUNE_LATE' });
        labels.write(Int32Array.of(2, 0));
        const again = softmaxCrossEntropy(logits, labels);
        expect([...(await again.correct.read())]).toEqual([1]);
        for (const tensor of [loss, correct, gradLogits, again.loss, again.correct]) tensor.dispose();
      });
    },
  );

  it('correct is not tracked', async () => {
    await onEachTarget(async (device) => {
      using logits = Tensor.from(device, [1, 2], [1, 2]);
      using labels = Tensor.from(device, Int32Array.of(0), [1]);
      const tape = new Tape();
      tape.watch(logits);
      const { loss, correct } = tape.run(() => softmaxCrossEntropy(logits, labels));
      expect([tape.tracks(loss), tape.tracks(correct)]).toEqual([true, false]);
      tape.dispose();
      loss.dispose();
      correct.dispose();
    });
  });
});
