/** What a data set is here: a list of image files with labels, and how to get it into memory. */
import { FormatError, MemoryError } from '../errors';
import { checkChoice, checkInteger, checkOptions, refuse } from './arguments';
import { type Batch, type BatchOptions, batches } from './batch';
import { defaultConcurrency, forEachLimited } from './concurrency';
import { isBadImage, readImage } from './image';

/** One image file and the index of its class. */
export interface Sample {
  path: string;
  label: number;
}

/** An image that was left out, and why. */
export interface SkippedImage {
  path: string;
  reason: string;
}

/** `'stop'`: the first image that cannot be read is an error. `'skip'`: it is left out and listed in `skipped`. */
export type OnBadImage = 'stop' | 'skip';

/**
 * Image files with labels. Iterating over it gives batches with the options it was made with; {@link batches} takes options of the moment.
 */
export interface Dataset<S extends Sample = Sample> extends AsyncIterable<Batch> {
  /** Names of the classes; a label is an index into it. */
  readonly classes: string[];
  readonly samples: S[];
  /** Number of samples. */
  readonly length: number;
  /** Images left out so far; grows while images are read. */
  readonly skipped: SkippedImage[];
  readonly onBadImage: OnBadImage;
  /** Options for {@link batches} where a call gives none. */
  readonly defaults: Partial<BatchOptions>;
}

/** A data set whose images are in memory; `samples` holds the readable ones only. */
export interface LoadedDataset<S extends Sample = Sample> extends Dataset<S> {
  /** Side of the images. */
  readonly size: number;
  /** [length, size, size, 3], RGB in the order of `samples`. */
  readonly pixels: Uint8Array;
}

/** What {@link makeDataset} needs. */
export interface DatasetParts<S extends Sample> {
  classes: string[];
  samples: S[];
  skipped?: SkippedImage[];
  onBadImage?: OnBadImage;
  defaults?: Partial<BatchOptions>;
}

/**
 * Makes a {@link Dataset} of a list of files; no file is touched.
 * @throws ArgumentError for a label that is no index into `classes`
 */
export function makeDataset<S extends Sample>(parts: DatasetParts<S>): Dataset<S> {
  checkOptions('makeDataset', parts, ['classes', 'samples', 'skipped', 'onBadImage', 'defaults']);
  const { classes, samples, skipped = [], onBadImage = 'stop', defaults = {} } = parts;
  checkChoice('makeDataset', 'onBadImage', onBadImage, ['stop', 'skip']);
  for (const { path, label } of samples) {
    if (Number.isInteger(label) && label >= 0 && label < classes.length) continue;
    throw refuse(
      'makeDataset',
      `label of ${path}`,
      label,
      `an integer from 0 to ${classes.length - 1}, an index into 'classes'`,
    );
  }
  const dataset: Dataset<S> = {
    classes,
    samples,
    length: samples.length,
    skipped,
    onBadImage,
    defaults,
    [Symbol.asyncIterator]() {
      return batches(dataset, {});
    },
  };
  return dataset;
}

/** Says in one sentence how many images were left out, and names the first `most`; '' if none was. */
export function describeSkipped(skipped: readonly SkippedImage[], most = 5): string {
  if (skipped.length === 0) return '';
  const named = skipped
    .slice(0, most)
    .map(({ path, reason }) => (reason.startsWith(path) ? reason : `${path}: ${reason}`));
  const rest = skipped.length > most ? `; and ${skipped.length - most} more` : '';
  return `${skipped.length} ${skipped.length === 1 ? 'image' : 'images'} skipped: ${named.join('; ')}${rest}`;
}

/** Options of {@link loadDataset}. */
export interface LoadOptions {
  /** Side of the images in pixels. Default: the `size` the data set was made with. */
  size?: number;
  /** `true` (default): keep the pixels. `false`: read every image only to see whether it is sound, and keep nothing. */
  cache?: boolean;
  /** Images decoded at the same time. Default: one per processor, at most 4. */
  concurrency?: number;
  /** Called after each image, for a progress bar. */
  onProgress?: (done: number, total: number) => void;
}

/**
 * Decodes every image once. With `cache` the result holds the pixels (`length · size² · 3` bytes); without, it is the data set of the readable
 * images, which are read again for each batch.
 * With `onBadImage: 'skip'` unreadable images are left out and listed in `skipped` of the result, see {@link describeSkipped}.
 * @throws FormatError or FileError for the first bad image (`'stop'`), FormatError if a class has no readable image left (`'skip'`);
 *   MemoryError if the pixels do not fit
 */
export function loadDataset<S extends Sample>(
  dataset: Dataset<S>,
  options: LoadOptions & { cache: false },
): Promise<Dataset<S>>;
export function loadDataset<S extends Sample>(
  dataset: Dataset<S>,
  options?: LoadOptions & { cache?: true },
): Promise<LoadedDataset<S>>;
export async function loadDataset<S extends Sample>(
  dataset: Dataset<S>,
  options: LoadOptions = {},
): Promise<Dataset<S> | LoadedDataset<S>> {
  checkOptions('loadDataset', options, ['size', 'cache', 'concurrency', 'onProgress']);
  const size = checkInteger('loadDataset', 'size', options.size ?? dataset.defaults.size, { low: 1, high: 16384 });
  const concurrency = checkInteger('loadDataset', 'concurrency', options.concurrency ?? defaultConcurrency(), {
    low: 1,
  });
  const keep = options.cache ?? true;
  const imageBytes = size * size * 3;
  const all = keep ? allocate(dataset.length, imageBytes) : undefined;

  const reasons = new Map<number, string>();
  let done = 0;
  await forEachLimited(dataset.length, concurrency, async (index) => {
    try {
      const pixels = await readImage(dataset.samples[index]!.path, { size });
      all?.set(pixels, index * imageBytes);
    } catch (error) {
      if (dataset.onBadImage === 'stop' || !isBadImage(error)) throw error;
      reasons.set(index, error.message);
    }
    options.onProgress?.(++done, dataset.length);
  });

  const kept = dataset.samples.map((_, index) => index).filter((index) => !reasons.has(index));
  const lost = dataset.samples.map((_, index) => index).filter((index) => reasons.has(index));
  const skipped = lost.map((index) => ({ path: dataset.samples[index]!.path, reason: reasons.get(index)! }));
  const samples = kept.map((index) => dataset.samples[index]!);
  checkClassesLeft(dataset, samples, skipped);
  if (all !== undefined && lost.length > 0) {
    kept.forEach((from, to) => {
      all.copyWithin(to * imageBytes, from * imageBytes, (from + 1) * imageBytes);
    });
  }

  const result = makeDataset({
    classes: dataset.classes,
    samples,
    skipped: [...dataset.skipped, ...skipped],
    onBadImage: dataset.onBadImage,
    defaults: { ...dataset.defaults, size },
  });
  return all === undefined
    ? result
    : Object.assign(result, { size, pixels: all.subarray(0, samples.length * imageBytes) });
}

function allocate(length: number, imageBytes: number): Uint8Array {
  try {
    return new Uint8Array(length * imageBytes);
  } catch (cause) {
    throw new MemoryError(
      `loadDataset: ${length} images of ${imageBytes} bytes do not fit into memory; with cache: false images are read batch by batch`,
      { kernel: 'loadDataset', argument: 'cache', got: `${length * imageBytes} bytes`, cause },
    );
  }
}

/** A class that had images and has none left would silently become a class that nothing is ever trained for. */
function checkClassesLeft(dataset: Dataset, left: readonly Sample[], skipped: readonly SkippedImage[]): void {
  const alive = new Set(left.map(({ label }) => label));
  const dead = new Set(dataset.samples.map(({ label }) => label).filter((label) => !alive.has(label)));
  if (dead.size === 0) return;
  const names = [...dead].map((label) => `'${dataset.classes[label]}'`);
  throw new FormatError(
    `loadDataset: no readable image is left of class ${names.slice(0, 5).join(', ')}${names.length > 5 ? ', …' : ''}; ${describeSkipped(skipped, 3)}`,
    { kernel: 'loadDataset', argument: 'samples' },
  );
}
