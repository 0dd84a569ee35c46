/** The benches of whole models: figures that do not depend on the machine. */
import { describe, expect, test } from 'vitest';
import { kernels } from '../../bench/kernels';
import { type MemoryRow, memory } from '../../bench/memory';
import { throughput } from '../../bench/throughput';
import { train } from '../../bench/train';
import { units } from '../../bench/units';

process.env.SIDETUNE_NUM_THREADS = '1'; // the figures do not depend on it, and others test beside this

const model = 'vit_tiny_patch16_224';
const lists = { model, dtype: ['f32' as const], retain: ['activations' as const], prefix: ['keep' as const] };

describe('memory', () => {
  const peaks = ({ rows }: { rows: MemoryRow[] }): number[] => rows.map(({ peakBytes }) => peakBytes);

  test('bytes by kind add up to the peak', async () => {
    const { rows } = await memory({ ...lists, methods: ['linear', 'dtlPlus', 'full'], batch: [4] });
    for (const { peakBytes, bytesByKind } of rows) {
      expect(Object.values(bytesByKind).reduce((sum, value) => sum + value)).toBe(peakBytes);
    }
  });

  test('orders the methods as the paper does', async () => {
    const result = await memory({ ...lists, methods: ['linear', 'dtl', 'dtlPlusStar', 'full'], batch: [8] });
    const [linear, dtl, star, full] = peaks(result) as [number, number, number, number];
    expect(linear).toBeLessThan(dtl);
    expect(dtl).toBeLessThan(star);
    expect(star).toBeLessThan(full);
  });

  test('falls with M, and with what is recomputed', async () => {
    const start = await memory({ ...lists, methods: ['dtl'], batch: [8], startBlock: [1, 4, 7, 10] });
    expect(peaks(start)).toEqual([...peaks(start)].sort((a, b) => b - a));
    const options = { methods: ['dtl'], batch: [8], startBlock: [4], retain: ['activations', 'block-inputs'] as const };
    const [kept, recomputed] = peaks(await memory({ ...lists, ...options })) as [number, number];
    expect(recomputed).toBeLessThan(kept);
  });

  test('is what a real step takes', async () => {
    const options = { ...lists, methods: ['dtlPlus', 'full'], batch: [2] };
    const planned = await memory(options);
    const real = await train({ ...options, steps: 1 });
    expect(real.rows).toHaveLength(2);
    expect(real.rows.map(({ peakBytes, bytesByKind, parameters }) => ({ peakBytes, bytesByKind, parameters }))).toEqual(
      planned.rows.map(({ peakBytes, bytesByKind, parameters }) => ({ peakBytes, bytesByKind, parameters })),
    );
  });
});

test('units are those of Table 1, parameters those of Table 2', async () => {
  const { rows } = await units();
  const found = Object.fromEntries(rows.map(({ method, units: number, parameters }) => [method, [number, parameters]]));
  expect(found).toMatchObject({
    linear: [0, 0],
    dtl: [12, 36_864],
    dtlPlus: [13, 43_776],
    dtlPlusStar: [13, 43_776],
    full: [76, 85_798_656],
  });
});

describe('stopping', () => {
  test('throughput gives the samples that it has', async () => {
    const controller = new AbortController();
    const { rows } = await throughput({
      model,
      methods: ['full', 'dtl'],
      batch: [1],
      dtype: ['f32'],
      samples: 50,
      signal: controller.signal,
      onProgress: (done) => {
        if (done === 4) controller.abort();
      },
    });
    // Two warm up, the third to fifth are timed: the one that was under way is finished.
    expect(rows.map(({ method, runs }) => [method, runs])).toEqual([
      ['full', 2],
      ['dtl', 1],
    ]);
  });

  test('kernels gives the rows that it has, beside the roof measured before them', async () => {
    const controller = new AbortController();
    const { host, rows } = await kernels({
      model,
      batch: [1],
      dtype: ['f32'],
      filter: /^(fill|addInto)/,
      signal: controller.signal,
      onProgress: (_done, _total, what) => what.startsWith('addInto') && controller.abort(),
    });
    expect(rows.map(({ kernel }) => kernel)).toEqual(['addInto']);
    expect(host.roof).toBeDefined();
  });

  test('before anything is measured there are no rows', async () => {
    const options = { ...lists, methods: ['dtl'], batch: [1], signal: AbortSignal.abort() };
    expect((await memory(options)).rows).toEqual([]);
    expect((await train({ ...options, steps: 1 })).rows).toEqual([]);
    expect((await kernels(options)).rows).toEqual([]);
  });
});
