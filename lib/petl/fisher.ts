/** Fisher information: how much a loss depends on each weight, as squared gradients summed over samples. */

import { valueAndGrad } from '../autograd';
import { ArgumentError } from '../errors';
import type { Hooks, Vit } from '../models';
import { isMatrix, vitShapes } from '../models/vit';
import * as ops from '../ops';
import { watchWeightGradient } from '../ops/linear';
import { outsideScopes, scope } from '../scope';
import { Tensor } from '../tensor';
import type { InitializeContext, TrainingBatch } from './model';

const patches = 'patch_embed.proj.weight';

/**
 * Of every weight of the patch embedding and of the blocks' linear layers Σ (∂loss/∂w)² over the first `count` samples, each on its own, by the name of
 * its tensor: f32 [numbers], the caller's. The loss is that of the backbone alone under the model's new head. The frozen weights stay packed, and blocks run
 * again in backward, so that besides the sums there is never more than one gradient, and nothing is left in the end.
 * @param samples - batches of any size, read as far as needed; with fewer images than `count` all of them
 * @throws the signal's reason; ShapeError, ArgumentError, MemoryError, whatever reading the samples throws
 */
export async function fisherInformation(
  backbone: Vit,
  { signal, onSample, backboneLoss }: InitializeContext,
  samples: AsyncIterable<TrainingBatch>,
  count: number,
): Promise<Map<string, Tensor>> {
  const sums = new Map<string, Tensor>();
  const add = (name: string, gradient: Tensor): void => {
    const before = sums.get(name)!;
    const flat = gradient.reshape([gradient.size]);
    sums.set(
      name,
      outsideScopes(() => ops.scaleShift(flat, flat, before)),
    );
    before.dispose();
  };
  // What backward derives from the frozen matrices goes with these handles.
  const handles = backbone.matrices();
  let taken = 0;
  try {
    for (const [name, shape] of vitShapes(backbone.config)) {
      if (name !== patches && !isMatrix(name)) continue;
      const size = shape.reduce((product, length) => product * length, 1);
      const zeros = outsideScopes(() => Tensor.zeros(backbone.device, [size], { kind: 'workspace' }));
      sums.set(name, zeros);
    }
    const hooks: Hooks = {
      linear: (name, x, y) => watchWeightGradient(x, y, (gradient) => add(`${name}.weight`, gradient)),
    };
    // Gradients get everywhere because the first weight of all wants its own.
    const first = { [patches]: backbone.frozen(patches) };
    for await (const sample of oneByOne(samples)) {
      signal?.throwIfAborted();
      const { value, grads } = valueAndGrad(() => backboneLoss(sample, hooks, handles), first);
      scope(() => add(patches, grads[patches]!));
      grads[patches]!.dispose();
      await value.read().finally(() => value.dispose());
      taken++;
      onSample?.(taken, count);
      if (taken === count) break;
    }
    if (taken === 0) {
      throw new ArgumentError("fisherInformation: 'samples' has no image, expected at least one", {
        argument: 'samples',
      });
    }
    return sums;
  } catch (error) {
    for (const tensor of sums.values()) tensor.dispose();
    throw error;
  } finally {
    for (const weight of handles.values()) weight.dispose();
  }
}

/** Batches of any size as batches of one. */
async function* oneByOne(samples: AsyncIterable<TrainingBatch>): AsyncGenerator<TrainingBatch, void, void> {
  for await (const { images, labels } of samples) {
    const size = images.length / labels.length;
    for (let i = 0; i < labels.length; i++) {
      yield { images: images.subarray(i * size, (i + 1) * size), labels: labels.subarray(i, i + 1) };
    }
  }
}
