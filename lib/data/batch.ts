/** Batches for the models: u8 images [H, W, 3] → normalised f32 [B, 3, H, W], in an order that depends on seed and epoch alone. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ArgumentError, ShapeError } from '../errors';
import { checkInteger, checkOptions, refuse } from './arguments';
import type { Augment } from './augment';
import { defaultConcurrency, forEachLimited } from './concurrency';
import type { Dataset, LoadedDataset } from './dataset';
import { isBadImage, readImage } from './image';
import { Rng } from './rng';

/** One number for all channels, or one per channel. */
export type PerChannel = number | readonly [number, number, number];

/** `(value / 255 − mean) / std`. */
export interface Normalization {
  /** Default 0.5. */
  mean?: PerChannel;
  /** Default 0.5. */
  std?: PerChannel;
}

/** Options of {@link batches}. */
export interface BatchOptions extends Normalization {
  /** Images per batch. Default 32. */
  batchSize: number;
  /** Side of the images in pixels; a loaded data set knows it. */
  size: number;
  /** Order of this pass: a function of seed and epoch alone. `false` (default): the order of the samples. */
  shuffle: { seed: number; epoch: number } | false;
  /** Leave out a last batch with fewer images. Default `false`. */
  dropLast: boolean;
  /** Number of batches at the beginning to leave out (not even read), to go on inside an epoch. Default 0. */
  startBatch: number;
  /** Makes another view of each image. Its random numbers depend on seed, epoch and the image alone, so `shuffle` must be given. */
  augment: Augment;
}

/** What a training or evaluation step takes. */
export interface Batch {
  /** [size, 3, S, S] */
  images: Float32Array;
  /** [size] */
  labels: Int32Array;
  paths: string[];
  /** Number of images in this batch. */
  size: number;
}

/** Names of {@link BatchOptions}. */
export const BATCH_OPTIONS = [
  'batchSize',
  'size',
  'shuffle',
  'dropLast',
  'startBatch',
  'augment',
  'mean',
  'std',
] as const;

/** Stream words of {@link Rng}: what the numbers are for. */
const SHUFFLE_STREAM = 1;
const AUGMENT_STREAM = 2;

function perChannel(kernel: string, name: string, value: PerChannel, positive: boolean): [number, number, number] {
  const three = typeof value === 'number' ? [value, value, value] : [...(Array.isArray(value) ? value : [])];
  if (three.length !== 3 || !three.every((v) => Number.isFinite(v) && (!positive || v > 0))) {
    throw refuse(kernel, name, value, `a ${positive ? 'positive ' : ''}number or three of them`);
  }
  return three as [number, number, number];
}

/** For each channel the 256 values a byte can become, rounded to f32 after each step as PyTorch rounds. */
function toneTables({ mean = 0.5, std = 0.5 }: Normalization): [Float32Array, Float32Array, Float32Array] {
  const means = perChannel('normalizeImages', 'mean', mean, false);
  const stds = perChannel('normalizeImages', 'std', std, true);
  const table = (channel: 0 | 1 | 2) =>
    Float32Array.from({ length: 256 }, (_, byte) => {
      const centred = Math.fround(Math.fround(byte / 255) - Math.fround(means[channel]));
      return centred / Math.fround(stds[channel]);
    });
  return [table(0), table(1), table(2)];
}

/**
 * Interleaved bytes → normalised planes: `(value / 255 − mean) / std`.
 * @param pixels - B images [size, size, 3], one after the other
 * @param size - side of the images
 * @param normalization - default mean 0.5 and std 0.5
 * @returns [B, 3, size, size]
 * @throws ShapeError if `pixels` is not a whole number of images, ArgumentError
 */
export function normalizeImages(pixels: Uint8Array, size: number, normalization: Normalization = {}): Float32Array {
  checkInteger('normalizeImages', 'size', size, { low: 1 });
  checkOptions('normalizeImages', normalization, ['mean', 'std']);
  const plane = size * size;
  if (pixels.length % (plane * 3) !== 0) {
    throw new ShapeError(
      `normalizeImages: 'pixels' has ${pixels.length} bytes, expected a multiple of size · size · 3 = ${plane * 3}`,
      {
        kernel: 'normalizeImages',
        argument: 'pixels',
        got: String(pixels.length),
        expected: `a multiple of ${plane * 3}`,
      },
    );
  }
  const out = new Float32Array(pixels.length);
  const [red, green, blue] = toneTables(normalization);
  for (let image = 0; image < pixels.length; image += plane * 3) {
    for (let i = 0, from = image; i < plane; i++, from += 3) {
      out[image + i] = red[pixels[from]!]!;
      out[image + plane + i] = green[pixels[from + 1]!]!;
      out[image + plane * 2 + i] = blue[pixels[from + 2]!]!;
    }
  }
  return out;
}

/** The order of one pass over `length` samples; depends on nothing but its arguments. */
export function epochOrder(length: number, shuffle: { seed: number; epoch: number } | false): Uint32Array {
  if (shuffle === false) return Uint32Array.from({ length }, (_, index) => index);
  return new Rng(shuffle.seed, [SHUFFLE_STREAM, shuffle.epoch]).permutation(length);
}

/** Number of batches that one pass has, `startBatch` not counted off. */
export function batchCount(
  length: number,
  { batchSize, dropLast = false }: { batchSize: number; dropLast?: boolean },
): number {
  return dropLast ? Math.floor(length / batchSize) : Math.ceil(length / batchSize);
}

interface Plan extends BatchOptions {
  order: Uint32Array;
  count: number;
}

function plan(dataset: Dataset | LoadedDataset, given: Partial<BatchOptions>): Plan {
  const name = 'batches';
  checkOptions(name, given, BATCH_OPTIONS);
  const merged = {
    ...dataset.defaults,
    ...Object.fromEntries(Object.entries(given).filter(([, v]) => v !== undefined)),
  };
  const loadedSize = 'pixels' in dataset ? dataset.size : undefined;
  const size = checkInteger(name, 'size', merged.size ?? loadedSize, { low: 1, high: 16384 });
  if (loadedSize !== undefined && size !== loadedSize) {
    throw refuse(name, 'size', size, `${loadedSize}, the size this data set was loaded with`);
  }
  const batchSize = checkInteger(name, 'batchSize', merged.batchSize ?? 32, { low: 1 });
  const startBatch = checkInteger(name, 'startBatch', merged.startBatch ?? 0);
  const { shuffle = false, dropLast = false, augment, mean = 0.5, std = 0.5 } = merged;
  if (shuffle !== false) {
    checkOptions(`${name}: 'shuffle'`, shuffle, ['seed', 'epoch']);
    checkInteger(name, 'shuffle.seed', shuffle.seed);
    checkInteger(name, 'shuffle.epoch', shuffle.epoch, { high: 0xffffffff });
  }
  if (augment !== undefined && shuffle === false) {
    throw new ArgumentError(
      `${name}: 'augment' takes its random numbers from 'shuffle', which is false; expected shuffle: { seed, epoch }`,
      { kernel: name, argument: 'shuffle', got: 'false', expected: '{ seed, epoch }' },
    );
  }
  perChannel(name, 'mean', mean, false);
  perChannel(name, 'std', std, true);
  const order = epochOrder(dataset.length, shuffle);
  const count = batchCount(dataset.length, { batchSize, dropLast });
  return { size, batchSize, startBatch, shuffle, dropLast, augment: augment as Augment, mean, std, order, count };
}

/** Notes an image that could not be read while batches are made, once however often it is met. */
function noteSkipped(dataset: Dataset, path: string, reason: string): void {
  if (!dataset.skipped.some((skipped) => skipped.path === path)) dataset.skipped.push({ path, reason });
}

async function makeBatch(dataset: Dataset | LoadedDataset, batch: number, p: Plan): Promise<Batch> {
  const indices = p.order.subarray(batch * p.batchSize, (batch + 1) * p.batchSize);
  const images: (Uint8Array | undefined)[] = new Array(indices.length).fill(undefined);
  const view = (pixels: Uint8Array, index: number) => {
    if (p.augment === undefined || p.shuffle === false) return pixels;
    return p.augment(pixels, new Rng(p.shuffle.seed, [AUGMENT_STREAM, p.shuffle.epoch, index]), p.size);
  };
  if ('pixels' in dataset) {
    const bytes = p.size * p.size * 3;
    for (const [slot, index] of indices.entries()) {
      images[slot] = view(dataset.pixels.subarray(index * bytes, (index + 1) * bytes), index);
    }
  } else {
    await forEachLimited(indices.length, defaultConcurrency(), async (slot) => {
      const index = indices[slot]!;
      const { path } = dataset.samples[index]!;
      try {
        images[slot] = view(await readImage(path, { size: p.size }), index);
      } catch (error) {
        if (dataset.onBadImage === 'stop' || !isBadImage(error)) throw error;
        noteSkipped(dataset, path, error.message);
      }
    });
  }
  return collate(dataset, indices, images, p);
}

/** Packs the images that could be read. */
function collate(dataset: Dataset, indices: Uint32Array, images: readonly (Uint8Array | undefined)[], p: Plan): Batch {
  const slots = images.flatMap((image, slot) =>
    image === undefined ? [] : [{ image, sample: dataset.samples[indices[slot]!]! }],
  );
  const bytes = p.size * p.size * 3;
  const pixels = new Uint8Array(slots.length * bytes);
  slots.forEach(({ image }, slot) => {
    if (image.length !== bytes) {
      throw new ShapeError(`batches: 'augment' returned ${image.length} bytes, expected size · size · 3 = ${bytes}`, {
        kernel: 'batches',
        argument: 'augment',
        got: String(image.length),
        expected: String(bytes),
      });
    }
    pixels.set(image, slot * bytes);
  });
  return {
    images: normalizeImages(pixels, p.size, { mean: p.mean, std: p.std }),
    labels: Int32Array.from(slots, ({ sample }) => sample.label),
    paths: slots.map(({ sample }) => sample.path),
    size: slots.length,
  };
}

/**
 * One pass over a data set in batches. While a batch is in use the next one is read and prepared; that work begins when the consumer awaits
 * something, so it fills the time in which the device computes.
 *
 *     for (let epoch = 0; epoch < epochs; epoch++) {
 *       for await (const batch of batches(train, { batchSize: 32, size: 224, shuffle: { seed: 0, epoch } })) …
 *     }
 *
 * With `onBadImage: 'skip'` a batch has fewer images where some cannot be read (and is not given at all if none can); the other batches stay what
 * they are. {@link loadDataset} with `cache: false` sorts the bad ones out beforehand.
 * @param dataset - from {@link imageFolder}, {@link imageList}, {@link makeDataset} or {@link loadDataset}
 * @param options - see {@link BatchOptions}; what is missing comes from the data set's own defaults
 * @throws ArgumentError at the call; FileError or FormatError for a bad image when its batch is asked for
 */
export function batches(
  dataset: Dataset | LoadedDataset,
  options: Partial<BatchOptions> = {},
): AsyncGenerator<Batch, void, void> {
  return run(dataset, plan(dataset, options));
}

async function* run(dataset: Dataset | LoadedDataset, p: Plan): AsyncGenerator<Batch, void, void> {
  const prepare = async (batch: number): Promise<Batch | undefined> => {
    if (batch >= p.count) return undefined;
    await nextTurn();
    return makeBatch(dataset, batch, p);
  };
  let next = prepare(p.startBatch);
  try {
    for (let batch = p.startBatch; batch < p.count; batch++) {
      const ready = await next;
      next = prepare(batch + 1);
      // A failure is thrown when its batch is asked for; until then nobody else may trip over it.
      next.catch(() => {});
      if (ready !== undefined && ready.size > 0) yield ready;
    }
  } finally {
    await next.catch(() => {});
  }
}
