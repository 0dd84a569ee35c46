/** Methods folded into the backbone: the tensors and the logits of the goldens, and the way back. */

import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openSafetensors } from '../../lib/io/safetensors';
import { load } from '../../lib/models';
import { linear, type PetlModel } from '../../lib/petl';
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

it('is refused by methods that cannot', async () => {
  const device = await openDevice();
  const { model, file } = await openGolden(device, 'method_adapter', folder);
  await expect(model.merge()).rejects.toThrow(/petl.adapter: cannot be merged into a backbone/);
  await expect(model.saveMerged(path.join(folder, 'none'))).rejects.toThrow(/not merged, expected merge\(\) before/);
  await file.close();
  await device.close();
});
