/** A head that reads the mean of the patches: the last block takes it before the MLP's last layer, and answers and gradients are the same. */

import { describe, expect, it } from 'vitest';
import { type ComputeDtype, vit } from '../../lib/models';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import type { Tensor } from '../../lib/tensor';
import { relativeToMaximum } from '../compare';
import { onCpu, openDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 };
const [images, patches, d] = [4, 4, 16];
const random = new Random(4);
const batch = {
  images: Float32Array.from({ length: images * 3 * 16 * 16 }, () => random.normal()),
  labels: Int32Array.from([0, 1, 2, 0]),
};

/** Looking at all tokens behind the last block, which leaves them all to be computed. */
const features = (z: Tensor): Tensor => z;
const linearOfAll = petl.define('linearOfAll', {}, { features });
const fullOfAll = petl.define('fullOfAll', {}, { features, trains: () => true });

/** Loss and gradients by name, after some steps of training. */
async function trained(model: petl.PetlModel, steps: number): Promise<Map<string, Float32Array>> {
  using optimizer = adamW(model.parameters(), { lr: 0.01 });
  for (let i = 0; i < steps; i++) await model.step(batch, optimizer);
  const { loss, correct, grads } = model.gradients(batch);
  const numbers = new Map<string, Float32Array>();
  for (const [name, tensor] of Object.entries({ loss, ...grads })) {
    numbers.set(name, (await tensor.read()) as Float32Array);
    tensor.dispose();
  }
  correct.dispose();
  return numbers;
}

// A block that runs again in backward runs without the hook behind it: there DTL's last block computes every token.
describe.each([
  ['linear', petl.linear, {}, linearOfAll, {}],
  ['full', petl.full, {}, fullOfAll, {}],
  ['full with drop path', petl.full, { dropPath: 0.5 }, fullOfAll, { dropPath: 0.5 }],
  ['dtl', petl.dtl, { startBlock: 2 }, petl.dtl, { startBlock: 2, retain: 'block-inputs' }],
  ['dtlPlus', petl.dtlPlus, { startBlock: 2 }, petl.dtlPlus, { startBlock: 2, retain: 'block-inputs' }],
] as [string, petl.Method<object>, object, petl.Method<object>, object][])(
  '%s',
  (name, method, options, other, others) => {
    it.each([
      ['f32', 1e-4, 1e-3],
      ['bf16', 0.02, 0.1],
    ] as const)('gives in %s what it gives where every token is computed', async (dtype, bound, ofGradients) => {
      await using device = await openDevice();
      const make = (of: petl.Method<object>, given: object) =>
        of(vit(device, tiny, { seed: 1, dtype: dtype as ComputeDtype }), {
          classes: 3,
          pool: 'patch_mean_then_norm',
          ...given,
        });
      const model = make(method, options);
      const all = make(other, others);
      expect(relativeToMaximum(await answers(model), await answers(all))).toBeLessThan(bound);
      // At its start DTL's gradients are 0 but for c; Full's steps magnify what rounding leaves of some.
      const steps = name.startsWith('full') ? 0 : 2;
      const [got, want] = [await trained(model, steps), await trained(all, steps)];
      for (const [parameter, numbers] of got) {
        if (parameter.endsWith('attn.qkv.bias')) continue; // a third of it is rounding
        expect(relativeToMaximum(numbers, want.get(parameter)!), parameter).toBeLessThan(ofGradients);
      }
      // Recorded passes, too: the third of a kind is a replay.
      for (let pass = 0; pass < 2; pass++) expect(await answers(model)).toEqual(await answers(model));
    });
  },
);

async function answers(model: petl.PetlModel): Promise<Float32Array> {
  using logits = model.forward(batch.images);
  return (await logits.read()) as Float32Array;
}

describe.runIf(onCpu)('hooks of the last block', () => {
  const shown = async (additive: boolean): Promise<string[]> => {
    await using device = await openDevice();
    const seen: string[] = [];
    const note = (place: string, x: Tensor): Tensor => {
      seen.push(`${place} ${x.shape.slice(1).join(' x ')}`);
      return x;
    };
    const method = petl.define(
      `watching${additive}`,
      {},
      {
        additive,
        norm: (place, y) => (place.startsWith('blocks.2') ? note(place.split('.').at(-1)!, y) : y),
        afterBlock: (i, z) => (i === 3 ? note('after', z) : z),
      },
    );
    method(vit(device, tiny, { seed: 1 }), { classes: 3 })
      .forward(batch.images)
      .dispose();
    return seen;
  };

  it('see every token, and the one behind the block comes before its MLP where it only adds', async () => {
    expect(await shown(true)).toEqual(['norm1 5 x 16', 'after 5 x 16', 'norm2 5 x 16']);
    expect(await shown(false)).toEqual(['norm1 5 x 16', 'norm2 5 x 16', 'after 5 x 16']);
  });
});

it.runIf(onCpu)('the last layer of the last block is multiplied once an image, forward and backward', async () => {
  await using device = await openDevice();
  const flops = async (method: petl.Method<object>, training: boolean): Promise<number> => {
    const model = method(vit(device, tiny, { seed: 1 }), { classes: 3 });
    device.startTrace();
    if (training) {
      const { loss, correct, grads } = model.gradients(batch);
      for (const tensor of [loss, correct, ...Object.values(grads)]) tensor.dispose();
    } else {
      model.forward(batch.images).dispose();
    }
    const { traceEvents } = await device.stopTrace();
    const products = traceEvents.filter(({ name, args }) => /^(linear|mlp)/.test(name) && args?.flops);
    return products.reduce((sum, { args }) => sum + Number(args!.flops), 0);
  };
  const layer = images * patches * 2 * d * 4 * d;
  const saved = async (training: boolean): Promise<number> =>
    (await flops(fullOfAll, training)) - (await flops(petl.full, training));
  expect(await saved(false)).toBe(layer);
  expect(await saved(true)).toBe(3 * layer); // its input's and its weight's gradient
});
