/** NOAH from supernet to subnet, on pictures that tell themselves apart by colour. */

import { describe, expect, it } from 'vitest';
import { imageFolder, type LoadedDataset, loadDataset } from '../../lib/data';
import { vit } from '../../lib/models';
import * as petl from '../../lib/petl';
import { findNoahSizes, type NoahRunOptions, train } from '../../lib/train';
import { tempFolder, writeImages } from '../cli/tiny';
import { onCpu, openDevice } from '../each_target';

// What it computes is tested elsewhere; this is about the pipeline.
describe.runIf(onCpu)('findNoahSizes', () => {
  it('trains the supernet with every size, judges by the validation images, and is the same for a seed', async () => {
    const folder = tempFolder();
    const device = await openDevice({ guards: true });
    const images = (await loadDataset(imageFolder(await writeImages(folder.path, 6), { size: 16 }))) as LoadedDataset;
    const backbone = vit(device, { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 }, { seed: 3 });
    const generations: number[] = [];
    const options: NoahRunOptions = {
      classes: 3,
      train: images,
      validation: images,
      epochs: 6,
      batchSize: 9,
      lr: 1e-2,
      seed: 2,
      sizes: [1, 3],
      depths: [1, 2, 3],
      budget: 900,
      population: 8,
      parents: 3,
      generations: 3,
      onGeneration: (generation) => generations.push(generation),
    };
    const found = await findNoahSizes(backbone, options);
    expect(generations).toEqual([1, 2, 3]);
    expect(found!.parameters).toBeLessThanOrEqual(900);
    expect(found!.fitness).toBeGreaterThan(0.6);
    expect(await findNoahSizes(backbone, options)).toEqual(found);

    const model = petl.noah(backbone, { classes: 3, sizes: found!.sizes, seed: 1 });
    expect(model.parameterCount).toBe(found!.parameters);
    const { test } = await train(model, { train: images, test: images, epochs: 6, batchSize: 9, lr: 1e-2 });
    expect(test!.accuracy).toBeGreaterThan(0.6);
    model.dispose();
    backbone.dispose();
    expect(device.memory().currentBytes).toBe(0);
    await device.close();
    folder.remove();
  });

  it('gives nothing when it is stopped before the search', async () => {
    const folder = tempFolder();
    const device = await openDevice();
    const images = (await loadDataset(imageFolder(await writeImages(folder.path, 3), { size: 16 }))) as LoadedDataset;
    const backbone = vit(device, { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 }, { seed: 3 });
    const signal = AbortSignal.abort();
    const options = { classes: 3, train: images, validation: images, epochs: 1, signal };
    expect(await findNoahSizes(backbone, options)).toBeUndefined();
    await device.close();
    folder.remove();
  });
});
