import path from 'node:path';
import { expect, it } from 'vitest';
import { openSafetensors } from '../../lib/io/safetensors';
import { cosineSchedule } from '../../lib/optim';
import { relativeToMaximum } from '../compare';

it('is the golden schedule, epoch by epoch', async () => {
  const file = await openSafetensors(path.join(__dirname, '../fixtures/goldens/cosine_schedule.safetensors'));
  const expected = await file.readFloat32('out.lr');
  const lr = cosineSchedule({ epochs: 100, lr: 1e-3, lrMin: 1e-8, warmupEpochs: 10, warmupLr: 1e-7 });
  expect(expected).toHaveLength(110);
  const actual = Array.from(expected, (_, epoch) => lr(epoch));
  expect(relativeToMaximum(actual, expected)).toBeLessThan(1e-7);
  // The first and the last epochs are too small for a comparison with the largest.
  expect(lr(0)).toBe(1e-7);
  expect(lr(109)).toBe(1e-8);
  await file.close();
});

it('refuses what is no number', () => {
  expect(() => cosineSchedule({ lr: Number.NaN, epochs: 10 })).toThrow(/'lr' is NaN/);
});
