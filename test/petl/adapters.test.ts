/** Adapters on disk: what a folder holds, and several of them on one backbone. */
import { copyFileSync, mkdirSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../lib/device';
import { writeSafetensors } from '../../lib/io/safetensors';
import { type Vit, vit } from '../../lib/models';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import { saveCheckpoint } from '../../lib/train';
import { tempFolder } from '../cli/tiny';
import { openDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 };
const random = new Random(1);
const batch = {
  images: Float32Array.from({ length: 4 * 3 * 16 * 16 }, () => random.normal()),
  labels: Int32Array.from([0, 1, 2, 0]),
};
const labels = ['cat', 'dog', 'owl'];
const folder = tempFolder();
const at = (name: string): string => join(folder.path, name);

const makers: Record<string, (backbone: Vit) => petl.PetlModel> = {
  linear: (backbone) => petl.linear(backbone, { classes: 3, labels }),
  bitfit: (backbone) => petl.bitfit(backbone, { classes: 3 }),
  vptDeep: (backbone) => petl.vptDeep(backbone, { classes: 3, prompts: 2 }),
  adapter: (backbone) => petl.adapter(backbone, { classes: 3, bottleneck: 4 }),
  ssf: (backbone) => petl.ssf(backbone, { classes: 3 }),
  dtlPlus: (backbone) => petl.dtlPlus(backbone, { classes: 3, startBlock: 2, labels }),
};
const names = Object.keys(makers);

async function logitsOf(model: petl.PetlModel): Promise<Float32Array> {
  using logits = model.forward(batch.images);
  return (await logits.read()) as Float32Array;
}

let device: Device;
let backbone: Vit;
const logits = new Map<string, Float32Array>();

beforeAll(async () => {
  device = await openDevice();
  backbone = vit(device, tiny, { seed: 3 });
  for (const [name, make] of Object.entries(makers)) {
    using model = make(backbone);
    using optimizer = adamW(model.parameters(), { lr: 0.05 });
    for (let step = 0; step < 3; step++) await model.step(batch, optimizer);
    await model.save(at(`${name}.safetensors`));
    logits.set(name, await logitsOf(model));
    if (name !== 'ssf') continue;
    const progress = { epoch: 1, batch: 0, lossSum: 0, correct: 0, images: 0 };
    await saveCheckpoint(at('checkpoint.safetensors'), model, optimizer, progress, {});
  }
  // What is no adapter.
  await writeSafetensors(at('weights.safetensors'), [
    { name: 'x', dtype: 'F32', shape: [1], data: new Float32Array(1) },
  ]);
  await writeSafetensors(at('config.safetensors'), [], { adapter_config: '{ "peft_type": "LORA" }' });
  copyFileSync(at('ssf.safetensors'), at('cut.safetensors'));
  truncateSync(at('cut.safetensors'), 100);
  writeFileSync(at('text.safetensors'), 'no header');
  copyFileSync(at('ssf.safetensors'), at('ssf.backup'));
  mkdirSync(at('folder.safetensors'));
  symlinkSync(at('nowhere'), at('link.safetensors'));
});
afterAll(async () => {
  await device.close();
  folder.remove();
});

describe('listAdapters', () => {
  it('finds the adapters of a folder and leaves out the rest', async () => {
    const listings = await petl.listAdapters(folder.path);
    expect(listings.map(({ path }) => path)).toEqual([...names].sort().map((name) => at(`${name}.safetensors`)));
    const byMethod = new Map(listings.map((listing) => [listing.method, listing]));
    for (const [name, make] of Object.entries(makers)) {
      using model = make(backbone);
      const path = at(`${name}.safetensors`);
      expect(byMethod.get(name)).toEqual({
        path,
        method: name,
        options: model.methodOptions,
        backbone: { name: backbone.name, fingerprint: backbone.fingerprint },
        classes: 3,
        ...(model.options.labels ? { labels } : {}),
        parameters: model.parameterCount,
        bytes: statSync(path).size,
      });
    }
  });

  it('reads headers alone: a file whose numbers are all wrong is listed as well', async () => {
    mkdirSync(at('zeros'));
    const bytes = readFileSync(at('ssf.safetensors'));
    bytes.fill(0xff, 8 + Number(bytes.readBigUInt64LE(0)));
    writeFileSync(at('zeros/ssf.safetensors'), bytes);
    expect(await petl.listAdapters(at('zeros'))).toMatchObject([{ method: 'ssf', classes: 3 }]);
  });

  it('of an empty folder is empty, of none an error', async () => {
    mkdirSync(at('empty'));
    expect(await petl.listAdapters(at('empty'))).toEqual([]);
    await expect(petl.listAdapters(at('no such'))).rejects.toMatchObject({
      name: 'FileError',
      message: `'${at('no such')}' could not be read: no such file`,
    });
  });
});

describe('several adapters on one backbone', () => {
  it('give each its own logits, one after the other and again, without being loaded anew', async () => {
    const listings = await petl.listAdapters(folder.path);
    const models = await Promise.all(listings.map(({ path }) => petl.load(backbone, path)));
    for (const round of [1, 2, 3, 4]) {
      for (const model of round % 2 ? models : [...models].reverse()) {
        expect(await logitsOf(model), `${model.method}, round ${round}`).toEqual(logits.get(model.method));
      }
    }
    const all = names.map((name) => String(logits.get(name)));
    expect(new Set(all).size).toBe(names.length);
    // All at once: nobody waits for anybody.
    const together = await Promise.all(models.map(logitsOf));
    expect(together).toEqual(models.map(({ method }) => logits.get(method)));
    for (const model of models) model.dispose();
  });

  it('cost what they train beside the one backbone', async () => {
    using first = await petl.load(backbone, at('dtlPlus.safetensors'));
    await logitsOf(first);
    const before = device.memory().currentBytes;
    using second = await petl.load(backbone, at('adapter.safetensors'));
    const head = 3 * 16 + 3;
    // Small tensors take whole cache lines.
    const added = device.memory().currentBytes - before;
    expect(added).toBeGreaterThanOrEqual(4 * (second.parameterCount + head));
    expect(added).toBeLessThan(4 * (second.parameterCount + head) + 64 * second.parameters().length);
  });

  it('made for another backbone are refused, and nothing stays behind', async () => {
    using other = vit(device, tiny, { seed: 4 });
    const before = device.memory().currentBytes;
    for (const { path, backbone: made } of await petl.listAdapters(folder.path)) {
      expect(made.fingerprint).not.toBe(other.fingerprint);
      await expect(petl.load(other, path)).rejects.toMatchObject({
        name: 'FormatError',
        argument: 'base_model_fingerprint',
        message: expect.stringContaining(`made for backbone '${backbone.name}'`),
      });
    }
    expect(device.memory().currentBytes).toBe(before);
  });
});
