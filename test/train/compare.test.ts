/** Methods beside each other: the figures, going on where it was stopped, and what is refused. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { imageFolder, type LoadedDataset, loadDataset } from '../../lib/data';
import type { Device } from '../../lib/device';
import { openSafetensors } from '../../lib/io/safetensors';
import { vit } from '../../lib/models';
import * as petl from '../../lib/petl';
import { type CompareOptions, compare, train as run } from '../../lib/train';
import { tempFolder, writeImages } from '../cli/tiny';
import { openDevice } from '../each_target';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 };
const folder = tempFolder();
const at = (name: string): string => join(folder.path, name);
let train: LoadedDataset;
let test: LoadedDataset;
let device: Device;

beforeAll(async () => {
  await Promise.all([writeImages(at('train')), writeImages(at('test'), 3)]);
  [train, test] = (await Promise.all(
    ['train', 'test'].map((name) => loadDataset(imageFolder(at(name), { size: 16 })) as Promise<LoadedDataset>),
  )) as [LoadedDataset, LoadedDataset];
  device = await openDevice();
});
afterAll(async () => {
  await device.close();
  folder.remove();
});

/** Of every run the figures that do not depend on the machine. */
const figures = ({ rows }: Awaited<ReturnType<typeof compare>>): unknown =>
  rows.map(({ imagesPerSecond: _, runs, ...row }) => ({
    ...row,
    runs: runs.map(({ imagesPerSecond: __, ...run }) => run),
  }));

const options = (out: string, more: Partial<CompareOptions> = {}): CompareOptions => ({
  ...{
    train,
    test,
    methods: ['linear', 'full', 'dtl'],
    seeds: [0, 5],
    out: at(out),
    epochs: 3,
    batchSize: 5,
    lr: 0.02,
  },
  backbone: async () => vit(device, tiny, { seed: 3 }),
  lrOf: { full: 0.002 },
  optionsOf: { dtl: { startBlock: 2 } },
  model: { dropPath: 0.1 },
  ...more,
});

describe('compare', () => {
  let whole: Awaited<ReturnType<typeof compare>>;

  it('trains every method with every seed, and leaves nothing behind but the results', async () => {
    const titles: string[] = [];
    whole = await compare(
      options('whole', {
        onProgress: ({ method, seed, run, runs }) => titles.push(`${method} ${seed} ${run}/${runs}`),
      }),
    );
    expect(whole.stopped).toBe(false);
    expect([...new Set(titles)]).toEqual([
      'linear 0 1/6',
      'full 0 2/6',
      'dtl 0 3/6',
      'linear 5 4/6',
      'full 5 5/6',
      'dtl 5 6/6',
    ]);
    expect(whole.rows.map(({ method, seeds }) => [method, seeds])).toEqual([
      ['linear', [0, 5]],
      ['full', [0, 5]],
      ['dtl', [0, 5]],
    ]);
    for (const { runs, accuracy, deviation, peakBytes } of whole.rows) {
      const [a, b] = runs.map((run) => run.accuracy) as [number, number];
      expect(accuracy).toBeCloseTo((a + b) / 2, 12);
      expect(deviation).toBeCloseTo(Math.abs(a - b) / Math.SQRT2, 12);
      expect(peakBytes).toBe(Math.max(...runs.map((run) => run.peakBytes)));
    }
    const [linear, full, dtl] = whole.rows.map(({ parameters }) => parameters);
    expect([linear, dtl]).toEqual([0, 2 * 3 * 16 * 2]);
    expect(full).toBeGreaterThan(5000);
    const names = ['linear', 'full', 'dtl'].flatMap((method) => [`${method}-0.json`, `${method}-5.json`]);
    expect(readdirSync(at('whole')).sort()).toEqual(names.sort());
    expect(device.memory().currentBytes).toBe(0);
  });

  it('has the options and rates that single methods got in its files', () => {
    const settings = (name: string) => JSON.parse(readFileSync(at(`whole/${name}.json`), 'utf8')).settings;
    expect(settings('full-5')).toMatchObject({ method: 'full', seed: 5, lr: 0.002, dropPath: 0.1, epochs: 3 });
    expect(settings('dtl-0')).toMatchObject({ lr: 0.02, options: { startBlock: 2, rank: 2 } });
  });

  it('trains nothing a second time', async () => {
    const trained: string[] = [];
    const again = await compare(options('whole', { onProgress: ({ method }) => trained.push(method) }));
    expect(trained).toEqual([]);
    expect(again).toEqual(whole);
  });

  it('adds what is new to what is there', async () => {
    const trained: string[] = [];
    const more = options('whole', {
      methods: ['linear', 'bitfit'],
      lrOf: {},
      optionsOf: {},
      onProgress: ({ method }) => trained.push(method),
    });
    const { rows } = await compare(more);
    expect([...new Set(trained)]).toEqual(['bitfit']);
    expect(rows.map(({ method }) => method)).toEqual(['linear', 'bitfit']);
  });

  it.each([1, 3, 5, 12, 20])('stopped after step %i of all runs, goes on to the same table', async (step) => {
    const controller = new AbortController();
    let steps = 0;
    const first = await compare(
      options(`stopped ${step}`, {
        signal: controller.signal,
        onProgress: () => {
          if (++steps === step) controller.abort();
        },
      }),
    );
    expect(first.stopped).toBe(true);
    expect(first.rows.flatMap(({ runs }) => runs).length).toBeLessThan(6);
    const second = await compare(options(`stopped ${step}`));
    expect(second.stopped).toBe(false);
    expect(figures(second)).toEqual(figures(whole));
  });

  it('trains again what had ended before its result was written', async () => {
    const controller = new AbortController();
    const once = options('unwritten', { methods: ['linear'], seeds: [0], lrOf: {}, optionsOf: {} });
    const stopAtEnd = { signal: controller.signal, onProgress: () => controller.abort() };
    await compare({ ...once, ...stopAtEnd });
    expect(existsSync(at('unwritten/linear-0.safetensors'))).toBe(true);
    // The checkpoint of a run that is over, without its result.
    {
      await using interrupted = await openSafetensors(at('unwritten/linear-0.safetensors'));
      const { settings } = JSON.parse(interrupted.metadata.training_state!);
      using backbone = vit(device, tiny, { seed: 3 });
      using model = petl.linear(backbone, { classes: 3, labels: train.classes, seed: 0, dropPath: 0.1 });
      const checkpoint = at('unwritten/linear-0.safetensors');
      await run(model, { train, epochs: 3, batchSize: 5, lr: 0.02, seed: 0, checkpoint, settings, resume: true });
    }
    const { rows } = await compare(once);
    expect(rows[0]!.runs[0]!.accuracy).toBe(whole.rows[0]!.runs[0]!.accuracy);
    expect(rows[0]!.peakBytes).toBe(whole.rows[0]!.runs[0]!.peakBytes);
  });

  it('stopped before it began, gives what is there', async () => {
    const { rows, stopped } = await compare(options('whole', { seeds: [5, 6], signal: AbortSignal.abort() }));
    expect(stopped).toBe(true);
    expect(rows.map(({ method, seeds, deviation }) => [method, seeds, deviation])).toEqual([
      ['linear', [5], null],
      ['full', [5], null],
      ['dtl', [5], null],
    ]);
  });
});

describe('compare refuses', () => {
  const cases: [what: string, more: () => Partial<CompareOptions>, said: RegExp][] = [
    ['no methods', () => ({ methods: [] }), /'methods' is empty, expected at least one/],
    ['an unknown method', () => ({ methods: ['dtl', 'dlt'] }), /'methods' has 'dlt', expected some of .*dtlPlus/],
    ['a method twice', () => ({ methods: ['dtl', 'full', 'dtl'] }), /'methods' is dtl, full, dtl, expected each once/],
    ['no seeds', () => ({ seeds: [] }), /'seeds' is \[\], expected whole numbers/],
    ['a seed that is none', () => ({ seeds: [0, 0.5] }), /'seeds' is \[0, 0\.5\], expected whole numbers/],
    ['a rate of a method that is not compared', () => ({ lrOf: { ssf: 1 } }), /'lrOf' names 'ssf', expected one of/],
    ['options of such a method', () => ({ optionsOf: { ssf: {} } }), /'optionsOf' names 'ssf', expected one of/],
    ['a rate that is none', () => ({ lrOf: { dtl: Number.NaN } }), /'lr' is NaN, expected a number of at least 0/],
    ['no epochs', () => ({ epochs: 0 }), /'epochs' is 0, expected a whole number of at least 1/],
    [
      'an unknown option',
      () => ({ optionsOf: { dtl: { rnak: 1 } } }),
      /petl\.dtl: unknown option 'rnak', known: .*rank/,
    ],
    ['an option out of range', () => ({ optionsOf: { dtl: { rank: 0 } } }), /'rank' is 0, expected a whole number/],
    [
      'other classes in the test set',
      () => ({ test: { ...test, classes: ['a', 'b', 'c'] } }),
      /'test' has the classes a, b, c/,
    ],
    [
      'results with other settings',
      () => ({ out: at('whole'), lr: 0.03 }),
      /linear-0\.json: is of a run with lr 0\.02, this one has 0\.03/,
    ],
    [
      'results of other images',
      () => ({ out: at('whole'), test: train }),
      /is of a run with test "9 images, .*, this one has "12 images/,
    ],
    [
      'results of another backbone',
      () => ({ out: at('whole'), backbone: async () => vit(device, tiny, { seed: 4 }) }),
      /is of a run with backbone/,
    ],
  ];
  it.each(cases)('%s', async (_, more, said) => {
    const trained: string[] = [];
    const call = compare({ ...options('refused'), onProgress: ({ method }) => trained.push(method), ...more() });
    await expect(call).rejects.toMatchObject({
      name: 'ArgumentError',
      code: 'SIDETUNE_ARGUMENT',
      message: expect.stringMatching(said),
    });
    expect(trained).toEqual([]);
    expect(device.memory().currentBytes).toBe(0);
  });

  // The run that was interrupted would be the last: nothing is trained before it is found out.
  it('to go on with an interrupted run that had other settings, before anything is trained', async () => {
    const once = { lrOf: {}, optionsOf: {} };
    const controller = new AbortController();
    const trained: string[] = [];
    const stop = { signal: controller.signal, onProgress: () => controller.abort() };
    await compare(options('interrupted', { ...once, ...stop, methods: ['ssf'], seeds: [5] }));
    expect(readdirSync(at('interrupted'))).toEqual(['ssf-5.safetensors']);
    const all = { ...once, methods: ['linear', 'ssf'], onProgress: () => trained.push('a step') };
    const others: [Partial<CompareOptions>, RegExp][] = [
      [{ lr: 0.03 }, /lr 0\.02, this one has 0\.03; expected the same settings, or another folder$/],
      [{ lrOf: { ssf: 0.03 } }, /lr 0\.02, this one has 0\.03/],
      [{ model: { dropPath: 0.2 } }, /dropPath 0\.1, this one has 0\.2/],
      [{ model: { dropPath: 0.1, pool: 'norm_then_patch_mean' } }, /pool "cls", this one has "norm_then_patch_mean"/],
      [{ test: train }, /test "9 images, .*, this one has "12 images/],
      [{ backbone: async () => vit(device, tiny, { seed: 4 }) }, /backbone ".*", this one has "/],
    ];
    for (const [more, said] of others) {
      await expect(compare(options('interrupted', { ...all, ...more }))).rejects.toMatchObject({
        name: 'ArgumentError',
        message: expect.stringMatching(/ssf-5\.safetensors: is of an interrupted run with /),
      });
      await expect(compare(options('interrupted', { ...all, ...more }))).rejects.toThrow(said);
    }
    expect(trained).toEqual([]);
    writeFileSync(at('interrupted/linear-5.safetensors'), 'no checkpoint');
    await expect(compare(options('interrupted', all))).rejects.toMatchObject({ name: 'FormatError' });
    expect(trained).toEqual([]);
    expect(device.memory().currentBytes).toBe(0);
  });

  it('a result that is none, by its name', async () => {
    await compare(options('damaged', { methods: ['linear'], seeds: [0], epochs: 1, lrOf: {}, optionsOf: {} }));
    writeFileSync(at('damaged/linear-0.json'), '{ "settings": {} }');
    const call = compare(options('damaged', { methods: ['linear'], seeds: [0], lrOf: {}, optionsOf: {} }));
    await expect(call).rejects.toMatchObject({
      name: 'FormatError',
      message: expect.stringMatching(/linear-0\.json: holds no result/),
    });
  });

  it('a folder that cannot be made', async () => {
    writeFileSync(at('file'), '');
    await expect(compare(options('file/in'))).rejects.toMatchObject({ name: 'FileError' });
  });
});
