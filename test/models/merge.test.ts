/** Methods folded into the backbone: the tensors and the logits of the goldens, and the way back. */

import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openSafetensors } from '../../lib/io/safetensors';
import { load, vit } from '../../lib/models';
import * as ops from '../../lib/ops';
import { define, linear, type MethodDefinition, type PetlModel } from '../../lib/petl';
import { relativeToMaximum } from '../compare';
import { openDevice } from '../each_target';
import { openGolden } from './golden';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sidetune-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function logitsOf(model: PetlModel, images: Float32Array): Promise<Float32Array> {
  using logits = model.forward(images);
  return (await logits.read()) as Float32Array;
}

describe.each(['lora', 'fact_tt', 'fact_tk', 'fact_tk_r3', 'ssf'])('golden method_%s, merged', (name) => {
  it('gives the tensors of the file, its logits on the plain backbone, and goes back to the bit', async () => {
    const device = await openDevice({ guards: true });
    const { file, model, backbone, batch } = await openGolden(device, `method_${name}`, folder);
    const before = await logitsOf(model, batch.images);
    const bytes = device.memory().currentBytes;

    await model.merge();
    expect(model.merged).toBe(true);
    const want = await file.readFloat32('out.logits');
    for (
      let pass = 0;
      pass < 4;
      pass++ // later ones are replayed
    )
      expect(relativeToMaximum(await logitsOf(model, batch.images), want)).toBeLessThan(1e-4);

    const merged = path.join(folder, `${name}.safetensors`);
    await model.saveMerged(merged);
    const saved = await openSafetensors(merged);
    const changed = [...file.tensors.keys()].filter((key) => key.startsWith('merged.'));
    expect(changed.length).toBeGreaterThan(0);
    for (const key of changed) {
      const [actual, expected] = [await saved.readFloat32(key.slice(7)), await file.readFloat32(key)];
      expect(relativeToMaximum(actual, expected), key).toBeLessThan(1e-5);
    }
    for (const key of saved.tensors.keys()) {
      if (changed.includes(`merged.${key}`)) continue;
      expect(await saved.readFloat32(key), `${key} is as it was`).toEqual(await file.readFloat32(`weight.${key}`));
    }

    // Anyone's software: the file as a backbone, with its head.
    const plain = await load(device, merged, { heads: backbone.config.heads });
    const probe = linear(plain, { classes: model.options.classes, pool: 'cls' });
    for (const { name: part, tensor } of probe.parameters()) tensor.write(await saved.readFloat32(part));
    expect(relativeToMaximum(await logitsOf(probe, batch.images), want)).toBeLessThan(1e-4);
    probe.dispose();
    plain.dispose();
    await saved.close();

    expect(() => model.gradients(batch)).toThrow(/merged into the backbone, expected unmerge\(\) first/);
    model.unmerge();
    expect(await logitsOf(model, batch.images)).toEqual(before);
    expect(device.memory().currentBytes).toBe(bytes);
    model.dispose();
    backbone.dispose();
    await file.close();
    expect(device.memory().currentBytes).toBe(0);
    await device.close();
  });

  it('costs what the plain backbone costs', async () => {
    const device = await openDevice();
    const { model, backbone, batch, file } = await openGolden(device, `method_${name}`, folder, { dtype: 'bf16' });
    const peakOf = (one: PetlModel): number => {
      one.forward(batch.images).dispose();
      device.resetPeak();
      const before = device.memory().currentBytes;
      one.forward(batch.images).dispose();
      return device.memory().peakBytes - before;
    };
    await model.merge();
    expect(peakOf(model)).toBe(peakOf(linear(backbone, { classes: model.options.classes, pool: 'cls' })));
    await file.close();
    await device.close();
  });
});

it('takes along what a method trains of the backbone, and refuses hooks that it would lose', async () => {
  const device = await openDevice({ guards: true });
  const backbone = vit(device, { imageSize: 16, patchSize: 8, dim: 16, depth: 2, heads: 2 }, { seed: 1 });
  const parts: MethodDefinition<object> = {
    parameters: (_b, init) => ({
      factor: { shape: [64], init: init.constant(1.5) },
      shift: { shape: [64], init: init.constant(0.2) },
    }),
    trains: (name) => name.endsWith('.bias') || name.endsWith('norm1.weight'),
    touches: (name) => name.endsWith('fc1'),
    linear: (_name, _x, y, p) => ops.scaleShift(y, p.factor!, p.shift!),
    mergeable: true,
  };
  const model = define('foldable', {}, parts)(backbone, { classes: 3 });
  for (const { name, tensor } of model.parameters())
    if (name.includes('bias') || name.includes('norm1')) ops.randomNormal_(tensor, { deviation: 0.5, seed: 3 });
  const images = Float32Array.from({ length: 3 * 16 * 16 }, (_, i) => Math.sin(i));
  const before = await logitsOf(model, images);
  await model.merge();
  expect(relativeToMaximum(await logitsOf(model, images), before)).toBeLessThan(1e-5);
  model.dispose();
  const lost = define('lossy', {}, { ...parts, afterBlock: (_i, z) => ops.scale(z, 2) })(backbone, { classes: 3 });
  await expect(lost.merge()).rejects.toThrow(
    /petl.lossy: cannot be merged into a backbone: it acts through 'afterBlock', too/,
  );
  lost.dispose();
  backbone.dispose();
  expect(device.memory().currentBytes).toBe(0);
  await device.close();
});

it('is refused by methods that cannot', async () => {
  const device = await openDevice();
  const { model, file } = await openGolden(device, 'method_adapter', folder);
  await expect(model.merge()).rejects.toThrow(/petl.adapter: cannot be merged into a backbone/);
  await expect(model.saveMerged(path.join(folder, 'none'))).rejects.toThrow(/not merged, expected merge\(\) before/);
  await file.close();
  await device.close();
});
