import { unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  type Batch,
  batchCount,
  batches,
  epochOrder,
  imageFolder,
  type LoadedDataset,
  loadDataset,
  normalizeImages,
} from '../../lib/data';
import { ArgumentError, FormatError, ShapeError } from '../../lib/errors';
import { plain, put, tempFolder } from './temp_images';

const folder = tempFolder();
const root = join(folder, 'grey');
const IMAGES = 10;
let loaded: LoadedDataset;

beforeAll(async () => {
  // Image k of 10 is grey 20·k, so a batch says which images it holds.
  for (let k = 0; k < IMAGES; k++)
    put(root, `${k % 2 === 0 ? 'even' : 'odd'}/${k}.png`, await plain([20 * k, 20 * k, 20 * k]));
  loaded = await loadDataset(imageFolder(root), { size: 2 });
});

async function collect(iterable: AsyncIterable<Batch>): Promise<Batch[]> {
  const all: Batch[] = [];
  for await (const batch of iterable) all.push(batch);
  return all;
}
const greys = (batch: Batch) =>
  Array.from({ length: batch.size }, (_, i) => Math.round((batch.images[i * 12]! * 0.5 + 0.5) * 255));
const shuffle = (epoch: number, seed = 3) => ({ seed, epoch });

describe('normalizeImages', () => {
  it('makes planes of interleaved bytes and normalises each', () => {
    const pixels = Uint8Array.from([
      0, 51, 102, 153, 204, 255, 1, 2, 3, 4, 5, 6, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120,
    ]);
    const got = normalizeImages(pixels, 2, { mean: [0, 0.5, 0.25], std: [1, 0.5, 2] });
    expect(got).toBeInstanceOf(Float32Array);
    const expected = [0, 1].flatMap((image) =>
      [0, 1, 2].flatMap((channel) =>
        [0, 1, 2, 3].map((i) => {
          const value = pixels[image * 12 + i * 3 + channel]! / 255;
          return (value - [0, 0.5, 0.25][channel]!) / [1, 0.5, 2][channel]!;
        }),
      ),
    );
    expect(got.length).toBe(24);
    // Three roundings to f32.
    got.forEach((value, i) => {
      expect(Math.abs(value - expected[i]!)).toBeLessThanOrEqual(3 * 2 ** -24);
    });
  });

  it('maps 0 and 255 to −1 and 1 by default', () => {
    const got = normalizeImages(Uint8Array.from([0, 255, 0]), 1);
    expect([...got]).toEqual([-1, 1, -1]);
  });

  it('refuses parts of images and bad statistics', () => {
    expect(() => normalizeImages(new Uint8Array(13), 2)).toThrow(ShapeError);
    expect(() => normalizeImages(new Uint8Array(12), 2, { std: 0 })).toThrow(ArgumentError);
    expect(() => normalizeImages(new Uint8Array(12), 2, { mean: [1, 2] as never })).toThrow("'mean' is [1, 2]");
  });
});

describe('epochOrder', () => {
  it('depends on seed and epoch, and is the identity without shuffling', () => {
    const order = (epoch: number, seed?: number) => [...epochOrder(IMAGES, shuffle(epoch, seed))];
    expect(order(1)).toEqual(order(1));
    expect(order(1)).not.toEqual(order(2));
    expect(order(1)).not.toEqual(order(1, 4));
    expect(order(1).sort((a, b) => a - b)).toEqual([...epochOrder(IMAGES, false)]);
  });
});

describe('batches', () => {
  it('gives every image once, with its own label and path', async () => {
    const all = await collect(batches(loaded, { batchSize: 4, shuffle: shuffle(0) }));
    expect(all.map((batch) => batch.size)).toEqual([4, 4, 2]);
    const seen = all.flatMap((batch) =>
      greys(batch).map((grey, i) => ({ grey, label: batch.labels[i]!, path: batch.paths[i]! })),
    );
    expect(seen.map(({ grey }) => grey).sort((a, b) => a - b)).toEqual(
      Array.from({ length: IMAGES }, (_, k) => 20 * k),
    );
    for (const { grey, label, path } of seen) {
      const k = grey / 20;
      expect(label).toBe(k % 2);
      expect(path).toBe(join(root, k % 2 === 0 ? 'even' : 'odd', `${k}.png`));
    }
  });

  it('is the same from memory and from files, bit for bit', async () => {
    const options = { batchSize: 3, size: 2, shuffle: shuffle(5) };
    expect(await collect(batches(imageFolder(root), options))).toEqual(await collect(batches(loaded, options)));
  });

  it('depends on seed and epoch alone, and resumes inside an epoch', async () => {
    const pass = async (epoch: number, startBatch = 0) =>
      (await collect(batches(loaded, { batchSize: 3, shuffle: shuffle(epoch), startBatch }))).map(greys);
    const [first, second] = [await pass(0), await pass(1)];
    expect(second).not.toEqual(first);
    expect(await pass(1)).toEqual(second);
    expect(await pass(1, 2)).toEqual(second.slice(2));
    expect(await pass(1, 9)).toEqual([]);
  });

  it('drops a last batch that is not full, if told to', async () => {
    const sizes = async (batchSize: number) =>
      (await collect(batches(loaded, { batchSize, dropLast: true }))).map((batch) => batch.size);
    expect(await sizes(4)).toEqual([4, 4]);
    expect(await sizes(5)).toEqual([5, 5]);
    expect(await sizes(11)).toEqual([]);
    expect(batchCount(10, { batchSize: 4, dropLast: true })).toBe(2);
    expect(batchCount(10, { batchSize: 4 })).toBe(3);
  });

  it('gives each image augmentation numbers of its own, whatever batch it is in', async () => {
    const drawn = async (batchSize: number, epoch: number, order = shuffle(epoch)) => {
      const numbers = new Map<number, number>();
      const augment: (p: Uint8Array, rng: { uint32(): number }) => Uint8Array = (pixels, rng) => {
        numbers.set(pixels[0]!, rng.uint32());
        return pixels;
      };
      await collect(batches(loaded, { batchSize, shuffle: order, augment }));
      return numbers;
    };
    const first = await drawn(2, 0);
    expect(first.size).toBe(IMAGES);
    expect(new Set(first.values()).size).toBe(IMAGES);
    expect([...(await drawn(7, 0))].sort()).toEqual([...first].sort());
    expect([...(await drawn(2, 1))].sort()).not.toEqual([...first].sort());
  });

  it('uses what augment returns and keeps the data set as it is', async () => {
    const before = loaded.pixels.slice();
    const augment = (pixels: Uint8Array) => pixels.map((level) => 255 - level);
    const [batch] = await collect(batches(loaded, { batchSize: IMAGES, shuffle: shuffle(0), augment }));
    expect(greys(batch!).sort((a, b) => a - b)[0]).toBe(255 - 180);
    expect(loaded.pixels).toEqual(before);
    const short = collect(batches(loaded, { shuffle: shuffle(0), augment: () => new Uint8Array(3) }));
    await expect(short).rejects.toThrow("'augment' returned 3 bytes");
  });

  it('prepares the next batch while one is in use, and not more', async () => {
    const prepared: number[] = [];
    let calls = 0;
    const augment = (pixels: Uint8Array) => {
      prepared.push(calls++);
      return pixels;
    };
    const iterator = batches(loaded, { batchSize: 1, shuffle: shuffle(0), augment });
    await iterator.next();
    expect(prepared.length).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(prepared.length).toBe(2);
    await iterator.return();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(prepared.length).toBe(2);
  });

  it('throws a bad image when its batch is asked for, not before', async () => {
    put(folder, 'late/only/0.png', await plain([5, 5, 5]));
    put(folder, 'late/only/1.png', 'no image');
    const iterator = batches(imageFolder(join(folder, 'late')), { batchSize: 1, size: 2 });
    expect((await iterator.next()).value?.size).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 30));
    await expect(iterator.next()).rejects.toThrow(FormatError);
    await expect(collect(batches(imageFolder(join(folder, 'late')), { size: 2 }))).rejects.toThrow('1.png');
  });

  it('goes on without a bad image, leaving the other batches as they are', async () => {
    for (let k = 0; k < 5; k++) put(folder, `gaps/only/${k}.png`, await plain([20 * k, 20 * k, 20 * k]));
    put(folder, 'gaps/only/1.png', 'no image');
    const gone = put(folder, 'gaps/only/4.png', await plain([80, 80, 80]));
    const dataset = imageFolder(join(folder, 'gaps'), { onBadImage: 'skip', size: 2, batchSize: 2 });
    unlinkSync(gone);
    const seen = (await collect(dataset)).map(greys);
    expect(seen).toEqual([[0], [40, 60]]);
    await collect(dataset);
    expect(dataset.skipped.map(({ path }) => path.at(-5))).toEqual(['1', '4']);
    expect(dataset.skipped[0]!.reason).toContain('cannot be decoded');
  });

  it('refuses bad options at the call', () => {
    const bad: [Parameters<typeof batches>[1], string][] = [
      [{ size: 5 }, "'size' is 5, expected 2"],
      [{ batchSize: 0 }, "'batchSize' is 0"],
      [{ shuffle: { seed: -1, epoch: 0 } }, "'shuffle.seed' is -1"],
      [{ shuffle: { seed: 1 } as never }, "'shuffle.epoch' is undefined"],
      [{ shuffle: true as never }, "'options' is true"],
      [{ augment: (pixels) => pixels }, "'augment' takes its random numbers from 'shuffle'"],
      [{ std: [1, 1, -1] }, "'std' is [1, 1, -1]"],
      [{ epoch: 3 } as never, "unknown option 'epoch'"],
    ];
    for (const [options, message] of bad) {
      expect(() => batches(loaded, options)).toThrow(ArgumentError);
      expect(() => batches(loaded, options)).toThrow(message);
    }
    expect(() => batches(imageFolder(root), {})).toThrow("'size' is undefined");
  });
});
