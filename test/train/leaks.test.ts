/** In a file, so in a process, of its own: what other tests leave to the garbage collector would be counted here. */

import { expect, it } from 'vitest';
import { vit } from '../../lib/models';
import { addon } from '../../lib/native';
import { adamW } from '../../lib/optim';
import { dtlPlus } from '../../lib/petl';
import { onCpu, openDevice } from '../each_target';

const steps = onCpu ? 1000 : 50; // under emulation they take their time

it(`${steps} steps leave no byte and no handle behind`, async () => {
  const device = await openDevice();
  const model = dtlPlus(vit(device, { imageSize: 16, patchSize: 8, dim: 8, depth: 2, heads: 2 }), {
    classes: 2,
    startBlock: 1,
    dropPath: 0.1,
  });
  const optimizer = adamW(model.parameters());
  const batch = {
    images: new Float32Array(2 * 3 * 16 * 16).map((_, i) => Math.sin(i)),
    labels: Int32Array.from([0, 1]),
  };
  for (let i = 0; i < 10; i++) await model.step(batch, optimizer);
  const before = device.memory();
  const finalized = addon.finalizedTensors();
  for (let i = 0; i < steps; i++) await model.step(batch, optimizer);
  const after = device.memory();
  expect(after.currentBytes).toBe(before.currentBytes);
  expect(after.blocks).toBe(before.blocks);
  expect(after.peakBytes).toBe(before.peakBytes);
  expect(addon.finalizedTensors(), 'tensors left to the garbage collector').toBe(finalized);
  await device.close();
}, 180_000);
