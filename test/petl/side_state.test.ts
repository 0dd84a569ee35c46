/** DTL as its authors write it, with h in one buffer that every block changes in place, beside ours, which never forms h: the same steps. */

import { expect, it } from 'vitest';
import { vit } from '../../lib/models';
import * as ops from '../../lib/ops';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import type { Tensor } from '../../lib/tensor';
import { openDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 4, heads: 2 };
const options = { rank: 2, startBlock: 2, beta: 100 };

const inPlace = petl.define('dtlInPlace', options, {
  parameters: ({ config: { dim, depth } }, init, { rank }) =>
    Object.fromEntries(
      Array.from({ length: depth }, (_, i) => [
        [`side.${i}.a`, { shape: [dim, rank], init: init.uniform(1 / Math.sqrt(dim)) }],
        [`side.${i}.c`, { shape: [rank, dim], init: init.zeros() }],
      ]).flat(),
    ),
  beforeBlock: (i, z, p, { state, buffer }) => {
    const [a, c] = [p[`side.${i - 1}.a`]!, p[`side.${i - 1}.c`]!];
    state.h = ops.lowRankAccumulate_(state.h ?? buffer('h', z.shape), z, a, c, { initialize: i === 1 });
    return z;
  },
  afterBlock: (i, z, _p, { state }, { startBlock, beta }) =>
    i < startBlock ? z : ops.sideInject(z, state.h as Tensor, { beta }),
  pure: true,
  frozenBlocks: (_backbone, { startBlock }) => startBlock,
});

it.each([{}, { retain: 'block-inputs', prefix: 'recompute' }] as const)(
  'h in a buffer or not at all, %j: the same losses, and h takes its bytes',
  async (policy) => {
    const random = new Random(3);
    const batch = {
      images: Float32Array.from({ length: 4 * 3 * 16 * 16 }, () => random.normal()),
      labels: Int32Array.from([0, 1, 2, 0]),
    };
    const losses: number[][] = [];
    const lasting: number[] = [];
    for (const method of [petl.dtl, inPlace] as petl.Method<typeof options>[]) {
      const device = await openDevice();
      const model = method(vit(device, tiny, { seed: 1 }), { classes: 3, seed: 5, ...options, ...policy });
      const optimizer = adamW(model.parameters(), { lr: 0.02 });
      const run: number[] = [];
      for (let i = 0; i < 8; i++) run.push((await model.step(batch, optimizer)).loss);
      losses.push(run);
      lasting.push(device.memory().current.side);
      await device.close();
    }
    const [ours, theirs] = losses as [number[], number[]];
    for (const [i, loss] of ours.entries()) expect(loss).toBeCloseTo(theirs[i]!, 4);
    expect(ours.at(-1)!).toBeLessThan(0.8 * ours[0]!);
    expect(lasting[1]! - lasting[0]!).toBe(4 * (4 * 5 * 16));
  },
);
