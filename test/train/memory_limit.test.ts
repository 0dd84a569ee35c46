/** Steps that do not fit: whichever allocation is the one that fails, everything that the step made is given back. */

import { describe, expect, it } from 'vitest';
import type { Device, DeviceOptions } from '../../lib/device';
import { MemoryError } from '../../lib/errors';
import { vit } from '../../lib/models';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import { openDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 4, dim: 16, depth: 3, heads: 2 };
const side = 3 * 16 * 16;

type Make = (device: Device) => petl.PetlModel;
const common = { classes: 3, dropPath: 0.2 };
const variants: [string, Make][] = [
  ['linear', (device) => petl.linear(vit(device, tiny), common)],
  ['full', (device) => petl.full(vit(device, tiny), common)],
  ['dtl', (device) => petl.dtl(vit(device, tiny), { ...common, startBlock: 2 })],
  ['dtlPlus', (device) => petl.dtlPlus(vit(device, tiny, { dtype: 'bf16' }), { ...common, startBlock: 1 })],
  [
    'dtlPlus, recomputed',
    (device) =>
      petl.dtlPlus(vit(device, tiny), { ...common, startBlock: 2, retain: 'block-inputs', prefix: 'recompute' }),
  ],
];

function batchOf(count: number): { images: Float32Array; labels: Int32Array } {
  const random = new Random(count);
  return {
    images: Float32Array.from({ length: count * side }, () => random.normal()),
    labels: Int32Array.from({ length: count }, (_, index) => index % 3),
  };
}

/** A model that has taken a step of two images: what every step keeps is there. */
async function start(make: Make, options: DeviceOptions) {
  const device = await openDevice(options);
  const model = make(device);
  const optimizer = adamW(model.parameters());
  await model.step(batchOf(2), optimizer);
  return { device, model, step: (count: number) => model.step(batchOf(count), optimizer) };
}

/** Bytes at the peak of that and another such step, and at the peak of a step of eight images. */
async function peaks(make: Make): Promise<{ two: number; eight: number }> {
  const { device, step } = await start(make, { plan: true });
  await step(2);
  const two = device.memory().peakBytes;
  await step(8);
  const eight = device.memory().peakBytes;
  await device.close();
  return { two, eight };
}

describe.each(variants)('%s', (_name, make) => {
  it('gives back what a step made, whichever allocation fails', async () => {
    const { two, eight } = await peaks(make);
    for (let i = 0; i <= 80; i++) {
      const memoryLimit = two + Math.floor(((eight - 1 - two) * i) / 80);
      const { device, step } = await start(make, { plan: true, memoryLimit });
      const { currentBytes, blocks } = device.memory();
      const error = await step(8).catch((caught) => caught);
      expect(error, `limit ${memoryLimit}`).toBeInstanceOf(MemoryError);
      expect(device.memory(), `limit ${memoryLimit}: ${error.message}`).toMatchObject({ currentBytes, blocks });
      await device.close();
    }
  });

  it('then takes a smaller step, to the bits that it gives alone', async () => {
    const { two } = await peaks(make);
    const run = async (tooLarge: boolean) => {
      const { device, model, step } = await start(make, { memoryLimit: two });
      if (tooLarge) await expect(step(8)).rejects.toBeInstanceOf(MemoryError);
      const results = [await step(2), await model.evaluate(batchOf(2))];
      const numbers = await Promise.all(model.parameters().map(({ tensor }) => tensor.readBytes()));
      await device.close();
      return { results, numbers, steps: model.steps };
    };
    expect(await run(true)).toEqual(await run(false));
  });
});

it('says what was asked for, what is in use, and the limit', async () => {
  await using device = await openDevice({ memoryLimit: 400_000 });
  const model = petl.dtl(vit(device, tiny), { ...common, startBlock: 2 });
  const error = await model.step(batchOf(64), adamW(model.parameters())).catch((caught) => caught);
  expect(error).toBeInstanceOf(MemoryError);
  expect(error).toMatchObject({ code: 'SIDETUNE_MEMORY', got: expect.any(String), expected: expect.any(String) });
  expect(error.message).toMatch(
    /out of memory: asked for \d+\.\d MB of \w+, in use \d+\.\d MB \(.*weights .*\), limit 0\.4 MB$/,
  );
});
