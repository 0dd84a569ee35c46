import { describe, expect, it } from 'vitest';
import { Tape } from '../../lib/autograd/tape';
import { kernels } from '../../lib/kernels';
import { adamwUpdate_, softmaxCrossEntropy } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { difference, epsilon } from '../compare';
import { onEachTarget } from '../each_target';
import { type Case, kernelTest } from '../kernel_test';
import { Random } from '../random';
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
    lossCase('a larger batch', [300, 5]),
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

  it('a label out of range is the first of all errors, and nothing that follows is updated', async () => {
    await onEachTarget(async (device) => {
      using logits = Tensor.from(device, new Float32Array(3 * 400), [400, 3]);
      using labels = Tensor.from(
        device,
        Int32Array.from({ length: 400 }, (_, b) => (b < 300 ? 1 : b)),
        [400],
      );
      using parameter = Tensor.from(device, [1, 2], [2]);
      using moment = Tensor.from(device, [0.5, 0.25], [2]);
      using square = Tensor.from(device, [4, 5], [2]);
      using gradient = Tensor.from(device, [1, 1], [2]);
      const update = {
        parameters: [parameter],
        firstMoments: [moment],
        secondMoments: [square],
        gradients: [gradient],
      };
      const results = [softmaxCrossEntropy(logits, labels), softmaxCrossEntropy(logits, labels)];
      adamwUpdate_(update, { lr: 0.5, step: 1, weightDecay: 0.5 });
      await expect(device.synchronize()).rejects.toMatchObject({
        code: 'SIDETUNE_LATE',
        message: expect.stringMatching(
          /^softmaxCrossEntropyForward \(call \d+\) failed: 'labels' holds 300 in row 300, expected 0 to 2; later calls were skipped$/,
        ),
      });
      expect([...(await parameter.read())]).toEqual([1, 2]);
      expect([...(await moment.read())]).toEqual([0.5, 0.25]);
      expect([...(await square.read())]).toEqual([4, 5]);
      adamwUpdate_(update, { lr: 0, step: 1 });
      expect([...(await square.read())]).not.toEqual([4, 5]);
      for (const { loss, correct } of results) for (const tensor of [loss, correct]) tensor.dispose();
    });
  });

  it('in a replay, too: the run with the wrong label is the one that fails', async () => {
    await onEachTarget(async (device) => {
      using logits = Tensor.from(device, [1, 2, 3, 4, 5, 6], [2, 3]);
      const { replay, result } = device.record(
        { labels: Tensor.from(device, Int32Array.of(2, 0), [2]) },
        ({ labels }) => scope(() => softmaxCrossEntropy(logits, labels).correct),
      );
      result.dispose();
      const run = (...numbers: number[]): Tensor => replay.run(({ labels }) => labels.write(Int32Array.from(numbers)));
      for (const numbers of [
        [2, 0],
        [3, 0],
        [2, -5],
      ])
        run(...numbers).dispose();
      // Calls so far: two tensors, the recording, a write and a run for each.
      await expect(device.synchronize()).rejects.toMatchObject({
        code: 'SIDETUNE_LATE',
        kernel: 'replay',
        message:
          "replay (call 7) failed: softmaxCrossEntropyForward: 'labels' holds 3 in row 0, expected 0 to 2; later calls were skipped",
      });
      using last = run(2, 2);
      expect([...(await last.read())]).toEqual([2]);
    });
  });

  it.each([4104, 9001])('%i classes: loss and gradient', async (C) => {
    const [B, labelSmoothing] = [3, 0.1];
    const random = new Random(C);
    const z = Float32Array.from({ length: B * C }, () => 3 * random.normal());
    const label = (b: number): number => (1013 * b + 4000) % C;
    let loss = 0;
    const grad = new Float64Array(B * C);
    for (let b = 0; b < B; b++) {
      const row = Array.from(z.subarray(b * C, (b + 1) * C));
      const lse = Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
      const mean = row.reduce((sum, value) => sum + value, 0) / C;
      loss += (lse - (1 - labelSmoothing) * row[label(b)]! - labelSmoothing * mean) / B;
      for (let c = 0; c < C; c++) {
        const target = (c === label(b) ? 1 - labelSmoothing : 0) + labelSmoothing / C;
        grad[b * C + c] = (Math.exp(row[c]! - lse) - target) / B;
      }
    }
    // A scalar target adds C exponentials one after another: a random walk of roundings.
    const bound = { roundings: 40 + 2 * Math.sqrt(C), epsilon: epsilon.f32 };
    await onEachTarget(async (device) => {
      using logits = Tensor.from(device, z, [B, C]);
      using labels = Tensor.from(
        device,
        Int32Array.from({ length: B }, (_, b) => label(b)),
        [B],
      );
      using gradLoss = Tensor.from(device, [1], [1]);
      const forward = kernels.softmaxCrossEntropyForward({ logits, labels, labelSmoothing }, { save: true });
      const lse = forward.lse!;
      const { gradLogits } = kernels.softmaxCrossEntropyBackward({ gradLoss, logits, labels, lse, labelSmoothing });
      expect(Math.abs((await forward.loss.read())[0]! / loss - 1)).toBeLessThan(1e-6);
      expect(difference(await gradLogits.read(), grad, bound)).toBeNull();
      for (const tensor of [...Object.values(forward), gradLogits]) tensor.dispose();
    });
  });

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
