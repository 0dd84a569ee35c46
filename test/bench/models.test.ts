/** The benches of whole models: figures that do not depend on the machine. */
import { describe, expect, test } from 'vitest';
import { kernels } from '../../bench/kernels';
import { type MemoryRow, memory } from '../../bench/memory';
import { paperMemory, paperThroughput, paperUnits } from '../../bench/paper';
import { tableMethods } from '../../bench/setup';
import { type ThroughputRow, throughput } from '../../bench/throughput';
import { train } from '../../bench/train';
import { units } from '../../bench/units';
import { methodNames } from '../../lib/petl';

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
  // Methods in the order of the table, NOAH's supernet is not one of them.
  expect(Object.keys(found)).toEqual([...tableMethods]);
  expect(methodNames().filter((name) => !tableMethods.includes(name))).toEqual(['noahSupernet']);
  expect(found).toEqual({
    full: [76, 85_798_656],
    linear: [0, 0],
    bitfit: [74, 102_912],
    vptShallow: [1, 7_680],
    vptDeep: [12, 92_160],
    adapter: [24, 313_536],
    adaptFormer: [12, 156_768],
    lst: [99, 2_376_492],
    lora: [24, 294_912],
    noah: [36, 331_836],
    factTt: [144, 61_440],
    factTk: [144, 86_528],
    ssf: [148, 205_824],
    dtl: [12, 36_864],
    dtlPlus: [13, 43_776],
    dtlPlusStar: [13, 43_776],
  });
  for (const row of rows) {
    const paper = paperUnits(row, 'vit_base_patch16_224');
    if (paper.units !== undefined) expect([row.method, row.units]).toEqual([row.method, paper.units]);
  }
  expect(Object.fromEntries(rows.map(({ method, unit }) => [method, unit]))).toMatchObject({
    dtl: 'module',
    lora: 'module',
    ssf: 'scale or shift',
    factTt: 'd × d slice of a matrix',
    factTk: 'd × d slice of a matrix',
  });
});

describe("the paper's figures", () => {
  const base = 'vit_base_patch16_224';
  const row = { model: base, method: 'dtl', batch: 32, startBlock: 7, retain: 'activations', prefix: 'keep' };
  const memoryOf = (more: object) => paperMemory({ ...row, ...more } as MemoryRow);

  test('of memory are for its own setting', () => {
    expect(memoryOf({})).toEqual({ millions: 0.04, gigabytes: 1.6 });
    expect(memoryOf({ method: 'dtlPlusStar', startBlock: 1 })).toEqual({ millions: 0.05, gigabytes: 3.1 });
    expect(memoryOf({ method: 'ssf', startBlock: null })).toEqual({ millions: 0.21, gigabytes: 4.9 });
    for (const other of [{ batch: 8 }, { startBlock: 8 }, { retain: 'block-inputs' }, { prefix: 'recompute' }])
      expect(memoryOf(other)).toEqual({ millions: 0.04 });
    for (const none of [{ model }, { method: 'vptShallow' }, { method: 'factTt' }]) expect(memoryOf(none)).toEqual({});
  });

  test('of memory put the methods in the order that is expected of them', () => {
    const order = ['linear', 'dtl', 'dtlPlus', 'lst', 'adaptFormer', 'bitfit', 'lora', 'dtlPlusStar', 'noah', 'factTk'];
    const startBlock = (method: string) => (method === 'dtlPlusStar' ? 1 : method.startsWith('dtl') ? 7 : null);
    const gigabytes = [...order, 'vptDeep', 'full', 'ssf'].map(
      (method) => memoryOf({ method, startBlock: startBlock(method) }).gigabytes!,
    );
    expect(gigabytes).toEqual([...gigabytes].sort((a, b) => a - b));
  });

  test('of throughput are for batches 1, 4 and 16', () => {
    const of = (method: string, batch: number, name = base) =>
      paperThroughput({ model: name, method, batch } as ThroughputRow);
    expect(of('dtl', 1)).toEqual({ imagesPerSecond: 131, relativeToFull: 131 / 161 });
    expect(of('dtlPlus', 4)).toEqual({ imagesPerSecond: 469, relativeToFull: 469 / 636 });
    expect(of('full', 16)).toEqual({ imagesPerSecond: 952, relativeToFull: 1 });
    expect([of('dtl', 2), of('lora', 1), of('dtl', 1, model)]).toEqual([{}, {}, {}]);
  });

  test('name methods that there are', async () => {
    const { rows } = await units();
    const known = rows.filter((each) => Object.keys(paperUnits(each, base)).length > 0);
    expect(known).toHaveLength(14);
    expect(paperUnits(rows[0]!, model)).toEqual({});
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
