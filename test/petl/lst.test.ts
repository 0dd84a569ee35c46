/** LST's side network cut out of a backbone: the parts that were made to count are the parts that are kept. */

import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { load, saveVit, type Vit, vit } from '../../lib/models';
import { vitShapes } from '../../lib/models/vit';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import { openDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 2, heads: 2 };
const hidden = 4 * tiny.dim;

/** What is made large: channels of the stream; numbers of the heads, by block; hidden units, by block. */
const channels = [1, 6, 7, 12];
const numbers = [
  [0, 5, 9, 15], // two of each head's eight
  [2, 3, 8, 10],
];
const units = [
  Array.from({ length: 16 }, (_, i) => 4 * i + 1),
  Array.from({ length: 16 }, (_, i) => 63 - 3 * i).sort((a, b) => a - b),
];

async function writeWeights(backbone: Vit, read: (name: string) => Float32Array): Promise<petl.PetlModel> {
  // Full takes the tensors over, so they can be written.
  const model = petl.full(backbone, { classes: 3 });
  for (const { name, tensor } of model.parameters()) if (!name.startsWith('head.')) tensor.write(read(name));
  await backbone.device.synchronize();
  return model;
}

it('keeps channels, numbers of heads and hidden units with the largest weights', async () => {
  const device = await openDevice({ guards: true });
  const random = new Random(4);
  const weights = new Map<string, Float32Array>();
  const shapes = vitShapes({ ...tiny, hidden, layerNormEps: 1e-6 });
  for (const [name, shape] of shapes) {
    const length = shape.reduce((product, side) => product * side, 1);
    const data = Float32Array.from({ length }, () => 0.5 + random.uniform());
    const columns = shape.at(-1)!;
    const enlarge = (rows: readonly number[], width = columns): void => {
      for (const row of rows) for (let j = 0; j < width; j++) data[row * width + j]! *= 10;
    };
    const block = Number(name.split('.')[1]);
    if (/(proj|fc2)\.weight$/.test(name)) enlarge(channels, length / shape[0]!);
    if (name.endsWith('qkv.weight')) enlarge([0, 16, 32].flatMap((third) => numbers[block]!.map((row) => third + row)));
    if (name.endsWith('fc1.weight')) enlarge(units[block]!);
    weights.set(name, data);
  }
  const source = vit(device, tiny, { seed: 1 });
  const holder = await writeWeights(source, (name) => weights.get(name)!);
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sidetune-'));
  const tensors = new Map(holder.parameters().map(({ name, tensor }) => [name, tensor]));
  await saveVit(source.config, (name) => tensors.get(name)!.alias(), `${folder}/vit.safetensors`);
  const backbone = await load(device, `${folder}/vit.safetensors`, { heads: 2 });

  const model = petl.lst(backbone, { classes: 3, reduction: 4, importance: 'magnitude' });
  await model.initialize();
  const own = new Map(model.parameters().map(({ name, tensor }) => [name, tensor]));
  const cut = (name: string, rows: readonly number[], columns?: readonly number[]): Float32Array => {
    const [data, width] = [weights.get(name)!, shapes.get(name)!.at(-1)!];
    return columns
      ? Float32Array.from(rows.flatMap((i) => columns.map((j) => data[i * width + j]!)))
      : Float32Array.from(rows.map((i) => data[i]!));
  };
  for (const [block, kept] of numbers.entries()) {
    const place = `blocks.${block}`;
    const rows = [0, 16, 32].flatMap((third) => kept.map((row) => third + row));
    const expected: Record<string, Float32Array> = {
      'norm1.weight': cut(`${place}.norm1.weight`, channels),
      'norm2.bias': cut(`${place}.norm2.bias`, channels),
      'attn.qkv.weight': cut(`${place}.attn.qkv.weight`, rows, channels),
      'attn.qkv.bias': cut(`${place}.attn.qkv.bias`, rows),
      'attn.proj.weight': cut(`${place}.attn.proj.weight`, channels, kept),
      'attn.proj.bias': cut(`${place}.attn.proj.bias`, channels),
      'mlp.fc1.weight': cut(`${place}.mlp.fc1.weight`, units[block]!, channels),
      'mlp.fc1.bias': cut(`${place}.mlp.fc1.bias`, units[block]!),
      'mlp.fc2.weight': cut(`${place}.mlp.fc2.weight`, channels, units[block]!),
      'mlp.fc2.bias': cut(`${place}.mlp.fc2.bias`, channels),
    };
    for (const [name, data] of Object.entries(expected))
      expect(await own.get(`lst.${place}.${name}`)!.read(), `${place}.${name}`).toEqual(data);
  }
  expect(await own.get('lst.norm.weight')!.read()).toEqual(cut('norm.weight', channels));

  // A second call, or one after reading from a file, changes nothing.
  const batch = {
    images: Float32Array.from({ length: 2 * 3 * 16 * 16 }, () => random.normal()),
    labels: Int32Array.from([0, 2]),
  };
  using optimizer = adamW(model.parameters(), { lr: 0.01 });
  await model.step(batch, optimizer);
  const trained = await own.get('lst.up.weight')!.read();
  const side = await own.get('lst.blocks.0.mlp.fc1.weight')!.read();
  await model.initialize();
  expect(await own.get('lst.blocks.0.mlp.fc1.weight')!.read()).toEqual(side);
  await model.save(`${folder}/lst.safetensors`);
  const loaded = await petl.load(backbone, `${folder}/lst.safetensors`);
  await loaded.initialize();
  const again = new Map(loaded.parameters().map(({ name, tensor }) => [name, tensor]));
  expect(await again.get('lst.blocks.0.mlp.fc1.weight')!.read()).toEqual(side);
  expect(await again.get('lst.up.weight')!.read()).toEqual(trained);
  rmSync(folder, { recursive: true });
  await device.close();
});

it('refuses options that make no sense', async () => {
  const device = await openDevice();
  const backbone = vit(device, tiny);
  expect(() => petl.lst(backbone, { classes: 3, reduction: 3 })).toThrow(
    /petl.lst: 'reduction' is 3, expected a divisor of dim = 16/,
  );
  expect(() => petl.lst(backbone, { classes: 3, reduction: 16 })).toThrow(/'reduction' is 16/);
  expect(() => petl.lst(backbone, { classes: 3, reduction: 4, importance: 'size' as 'fisher' })).toThrow(
    /'importance' is size, expected fisher or magnitude/,
  );
  expect(() => petl.lst(backbone, { classes: 3, reduction: 4, samples: 0 })).toThrow(
    /'samples' is 0, expected a whole/,
  );
  await device.close();
});
