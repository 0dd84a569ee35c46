/** Passes that are replayed give what passes that make their calls give: to the bit, in the same memory. */

import { afterEach, describe, expect, it, vi } from 'vitest';
import { valueAndGrad } from '../../lib/autograd';
import type { Device } from '../../lib/device';
import { vit } from '../../lib/models';
import { pool } from '../../lib/ops';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import { define, dtl } from '../../lib/petl';
import type { PetlModel, TrainingBatch } from '../../lib/petl/model';
import { Replay } from '../../lib/replay';
import { onCpu, openDevice } from '../each_target';

const side = 16;
function batchOf(size: number, seed: number): TrainingBatch {
  return {
    images: Float32Array.from({ length: size * 3 * side * side }, (_, i) => Math.sin(seed + i * 1.7)),
    labels: Int32Array.from({ length: size }, (_, i) => (seed + i) % 3),
  };
}

const backboneOn = (device: Device, dtype: 'f32' | 'bf16' | 'int8' = 'f32') =>
  vit(device, { imageSize: side, patchSize: 4, dim: 16, depth: 3, heads: 2 }, { dtype, seed: 3 });

/** By this step every kind of pass has been there twice, and buffers that the first ones made no longer lie in the way. */
const settled = 6;

/** Everything that a few steps, evaluations and predictions give, and the memory that the last of them took. */
async function work(device: Device, model: PetlModel): Promise<unknown[]> {
  const optimizer = adamW(model.parameters(), { lr: 0.05 });
  const seen: unknown[] = [];
  for (const [index, size] of [4, 3, 4, 3, 4, 3, 4, 3].entries()) {
    if (index === settled) vi.mocked(Replay.prototype.run).mockClear();
    device.resetPeak();
    seen.push(await model.step(batchOf(size, index), optimizer), model.retained.length);
    const { peakBytes, atPeak } = device.memory();
    if (index >= settled) seen.push(peakBytes, atPeak);
    seen.push(await model.evaluate(batchOf(5, index)));
    seen.push(await model.predict(batchOf(2, index).images));
  }
  for (const { tensor } of model.parameters()) seen.push(await tensor.read());
  optimizer.dispose();
  return seen;
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe('a model', () => {
  // By name, with options for a small backbone. Those with a rate of dropout keep it: masks differ from step to step.
  const methods: Readonly<Record<string, object>> = {
    linear: {},
    full: {},
    bitfit: {},
    vptShallow: { prompts: 2 },
    vptDeep: { prompts: 2, dropout: 0.2 },
    adapter: { bottleneck: 3 },
    adaptFormer: { bottleneck: 3 },
    lst: { reduction: 4 },
    lora: { rank: 3, dropout: 0.2 },
    noah: { sizes: { prompt: [2, 0, 1], lora: [0, 3, 2], adapter: [2, 0, 3] } },
    factTt: { rank: 3 },
    factTk: { rank: 3 },
    ssf: {},
    dtl: { startBlock: 2 },
    dtlPlus: { startBlock: 2 },
    dtlPlusStar: {},
  };
  const ways = [
    { dropPath: 0.3 },
    { dropPath: 0.3, retain: 'block-inputs', prefix: 'recompute' },
    { dtype: 'bf16' },
    { dtype: 'int8', dropPath: 0.3 },
  ] as const;
  const int8 = (way: object): boolean => 'dtype' in way && way.dtype === 'int8';
  const cases = Object.keys(methods)
    .flatMap((method) => ways.map((way) => ({ method, ...way })))
    .filter((way) => onCpu || 'dropPath' in way || /^(dtl|lora)/.test(way.method))
    .filter((way) => !int8(way) || (onCpu && way.method !== 'full'));

  it.each(cases)('%o learns and answers to the bit as without replays', async ({ method, ...way }) => {
    const { dtype, ...options } = { dtype: 'f32', ...way } as const;
    const runs = vi.spyOn(Replay.prototype, 'run');
    const results: unknown[][] = [];
    for (const replay of [false, true]) {
      await using device = await openDevice({ guards: true });
      const backbone = backboneOn(device, dtype);
      const model = petl.methodNamed(method)!(backbone, {
        classes: 3,
        seed: 1,
        replay,
        ...options,
        ...methods[method],
      });
      expect(runs).not.toHaveBeenCalled();
      results.push(await work(device, model));
      model.dispose();
      backbone.dispose();
      expect(await device.checkGuards()).toBeNull();
      await device.synchronize();
      expect(device.memory().currentBytes).toBe(0);
    }
    expect(runs).toHaveBeenCalledTimes(2 * 3);
    expect(results[1]).toEqual(results[0]);
  });

  it('whose results are still in use makes its calls', async () => {
    await using device = await openDevice();
    const backbone = backboneOn(device);
    const model = dtl(backbone, { classes: 3, startBlock: 2 });
    const images = (index: number): Float32Array => batchOf(2, index).images;
    const logits = [0, 1, 2, 3, 4, 5].map((index) => model.forward(images(index)));
    const plain = dtl(backbone, { classes: 3, startBlock: 2, replay: false });
    for (const [index, tensor] of logits.entries()) {
      using want = plain.forward(images(index));
      expect(await tensor.read()).toEqual(await want.read());
      tensor.dispose();
    }
  });

  it('can still be differentiated from outside', async () => {
    await using device = await openDevice();
    const model = dtl(backboneOn(device), { classes: 3, startBlock: 2 });
    const { images } = batchOf(2, 1);
    for (let i = 0; i < 3; i++) model.forward(images).dispose();
    const weights = Object.fromEntries(model.parameters().map(({ name, tensor }) => [name, tensor]));
    const loss = () => pool(model.forward(images).reshape([1, 6, 1]), { mode: 'mean' }).reshape([1]);
    expect(() => valueAndGrad(loss, weights)).not.toThrow();
  });

  it('of a method that does not say it is pure makes its calls', async () => {
    await using device = await openDevice();
    const seen: number[] = [];
    const impure = define(
      'impure',
      {},
      {
        afterBlock: (i, z) => {
          seen.push(i);
          return z;
        },
      },
    );
    const model = impure(backboneOn(device), { classes: 3 });
    for (let i = 0; i < 3; i++) model.forward(batchOf(2, i).images).dispose();
    expect(seen).toEqual([1, 2, 3, 1, 2, 3, 1, 2, 3]);
  });

  it('whose backbone is gone says so', async () => {
    await using device = await openDevice();
    const backbone = backboneOn(device);
    const model = dtl(backbone, { classes: 3, startBlock: 2 });
    for (let i = 0; i < 3; i++) model.forward(batchOf(2, i).images).dispose();
    backbone.dispose();
    expect(() => model.forward(batchOf(2, 3).images)).toThrow(/no tensor 'patch_embed/);
  });
});
