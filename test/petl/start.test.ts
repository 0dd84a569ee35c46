/** How each method starts, and what it leaves alone. */

import { describe, expect, it } from 'vitest';
import { vit } from '../../lib/models';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import { relativeToMaximum } from '../compare';
import { onCpu, openDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 };
const random = new Random(1);
const batch = {
  images: Float32Array.from({ length: 4 * 3 * 16 * 16 }, () => random.normal()),
  labels: Int32Array.from([0, 1, 2, 0]),
};

/** Options for a small backbone, and whether the first answers are the frozen backbone's. */
const methods: Readonly<Record<string, [options: object, identity: boolean]>> = {
  linear: [{}, true],
  full: [{}, true],
  bitfit: [{}, true],
  vptShallow: [{ prompts: 2 }, false],
  vptDeep: [{ prompts: 2 }, false],
  adapter: [{ bottleneck: 3 }, true],
  adaptFormer: [{ bottleneck: 3 }, true],
  lst: [{ reduction: 4 }, false],
  lora: [{ rank: 3 }, true],
  noah: [{ sizes: 2 }, false],
  factTt: [{ rank: 3 }, true],
  factTk: [{ rank: 3 }, true],
  ssf: [{}, false],
  dtl: [{ startBlock: 2 }, true],
  dtlPlus: [{ startBlock: 2 }, true],
  dtlPlusStar: [{}, true],
};

async function logitsOf(model: petl.PetlModel): Promise<Float32Array> {
  using logits = model.forward(batch.images);
  return (await logits.read()) as Float32Array;
}

// What is computed elsewhere is held to the goldens there.
describe.runIf(onCpu)('a method', () => {
  it('is listed here', () => {
    expect([...Object.keys(methods), 'noahSupernet'].sort()).toEqual([...petl.methodNames()].sort());
  });

  it.each(Object.entries(methods))(
    '%s starts as it should, and trains what it says',
    async (name, [options, identity]) => {
      const device = await openDevice();
      const backbone = vit(device, tiny, { seed: 1 });
      const probe = petl.linear(backbone, { classes: 3, pool: 'cls' });
      const plain = await logitsOf(probe);
      probe.dispose();
      const tensors = backbone.names();
      const before = new Map<string, Uint8Array>();
      for (const tensor of tensors) before.set(tensor, await backbone.plain(tensor).readBytes());

      const model = petl.methodNamed(name)!(backbone, { classes: 3, pool: 'cls', ...options });
      const error = relativeToMaximum(await logitsOf(model), plain);
      if (identity) expect(error).toBeLessThan(1e-6);
      else expect(error).toBeGreaterThan(1e-4);

      const starts = new Map<string, unknown>();
      for (const { name: parameter, tensor } of model.parameters()) starts.set(parameter, await tensor.read());
      using optimizer = adamW(model.parameters(), { lr: 0.01, weightDecay: 0.1 });
      for (let i = 0; i < 3; i++) await model.step(batch, optimizer);
      const trained = new Set(model.parameters().map(({ name: parameter }) => parameter));
      for (const { name: parameter, tensor } of model.parameters())
        expect(await tensor.read(), `${parameter} has moved`).not.toEqual(starts.get(parameter));
      for (const tensor of backbone.names().filter((each) => !trained.has(each)))
        expect(await backbone.plain(tensor).readBytes(), `${tensor} is frozen`).toEqual(before.get(tensor));
      await device.close();
    },
  );
});
