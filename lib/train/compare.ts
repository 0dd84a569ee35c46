/** Methods beside each other on one data set, each with several seeds; what is finished is on disk, so a comparison can be stopped and gone on with. */

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import type { Dataset, LoadedDataset } from '../data';
import { ArgumentError, FormatError } from '../errors';
import { fileError, writeFileAtomic } from '../io/atomic';
import type { Vit } from '../models';
import { type ModelOptions, methodNamed, methodNames } from '../petl';
import { checkpointSettings } from './checkpoint';
import { type TrainOptions, type TrainProgress, train } from './train';

type Images = Dataset | LoadedDataset;

export interface CompareOptions {
  train: Images;
  /** With the classes of `train`. */
  test: Images;
  /** Names of methods, built in or defined in this process. */
  methods: readonly string[];
  /** Of initial values, order and whatever is random: a run of each method with each. */
  seeds: readonly number[];
  /** Makes the same backbone each time. Every run gets one of its own, which is disposed with it: methods that train the backbone take its tensors over. */
  backbone(): Promise<Vit>;
  /** Gets `<method>-<seed>.json` of each finished run, and a checkpoint of the run that is under way. */
  out: string;
  epochs: number;
  /** Default 32. */
  batchSize?: number;
  /** Highest learning rate. Default 1e-3. */
  lr?: number;
  /** Of single methods. */
  lrOf?: Readonly<Record<string, number>>;
  /** Default 0.05. */
  weightDecay?: number;
  /** Options of the model for all methods. */
  model?: Partial<Pick<ModelOptions, 'dropPath' | 'labelSmoothing' | 'pool' | 'retain' | 'prefix'>>;
  /** Options of single methods: `{ vptDeep: { prompts: 5 } }`. */
  optionsOf?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  /** Stops after the step that is running; its state is saved. */
  signal?: AbortSignal;
  /** While images are looked at for a method's initial values: how many of how many. */
  onInitialize?(run: RunInTurn, images: number, of: number): void;
  onProgress?(progress: CompareProgress): void;
}

/** Which run it is. */
export interface RunInTurn {
  method: string;
  seed: number;
  /** Counted from 1, finished ones included. */
  run: number;
  runs: number;
}

export interface CompareProgress extends RunInTurn {
  training: TrainProgress;
}

/** A finished run. */
export interface CompareRun {
  method: string;
  seed: number;
  /** Top-1 on the test set after the last epoch. */
  accuracy: number;
  loss: number;
  /** Trained numbers, the head excluded. */
  parameters: number;
  /** Of the whole run, weights included. */
  peakBytes: number;
  /** In training, since the run was started or gone on with. */
  imagesPerSecond: number;
}

/** A method, over its finished runs. */
export interface CompareRow {
  method: string;
  seeds: number[];
  accuracy: number;
  /** Standard deviation of the accuracy over seeds (n − 1); null of one run. */
  deviation: number | null;
  parameters: number;
  /** The largest. */
  peakBytes: number;
  /** The mean. */
  imagesPerSecond: number;
  runs: CompareRun[];
}

export interface Comparison {
  /** Of the methods that have a finished run. */
  rows: CompareRow[];
  /** Some runs are not finished: the same call goes on. */
  stopped: boolean;
}

type Settings = Record<string, unknown>;

/**
 * Trains each method with each seed, one run after the other, seed by seed. Runs that are finished in `out` are taken from there; one that was interrupted
 * goes on from its checkpoint, bit for bit.
 * @throws ArgumentError for options, and for an `out` that holds runs with other settings, finished or interrupted; FormatError for a file in it that is none of
 * a comparison. All before anything is trained.
 */
export async function compare(options: CompareOptions): Promise<Comparison> {
  const { methods, seeds, out, signal, onProgress } = options;
  checkLists(options);
  try {
    mkdirSync(out, { recursive: true });
  } catch (cause) {
    throw fileError('written', out, cause);
  }
  const settings = await settingsOf(options);
  const queue = seeds.flatMap((seed) => methods.map((method) => ({ method, seed })));
  const finished = new Map<string, CompareRun>();
  for (const { method, seed } of queue) {
    const file = fileOf(out, method, seed);
    const expected = { ...settings.get(method), seed };
    const found = existsSync(file) ? readResult(file) : undefined;
    if (found) {
      checkSame(`${file}: is of a run`, found.settings, expected);
      finished.set(file, found.result);
    } else if (existsSync(checkpointOf(file))) {
      const stored = await checkpointSettings(checkpointOf(file));
      checkSame(`${checkpointOf(file)}: is of an interrupted run`, stored, expected);
    }
  }
  for (const [index, { method, seed }] of queue.entries()) {
    const file = fileOf(out, method, seed);
    if (finished.has(file)) continue;
    if (signal?.aborted) break;
    const turn = { method, seed, run: index + 1, runs: queue.length };
    const report = {
      onProgress: (training: TrainProgress): void => onProgress?.({ ...turn, training }),
      onInitialize: (images: number, of: number): void => options.onInitialize?.(turn, images, of),
    };
    const own = { ...settings.get(method), seed };
    const result = await runOne(options, method, seed, own, report);
    if (!result) break;
    const text = JSON.stringify({ settings: own, result }, null, 2);
    await writeFileAtomic(file, [Buffer.from(`${text}\n`)]);
    rmSync(checkpointOf(file), { force: true });
    finished.set(file, result);
  }
  const rows = methods.flatMap((method) => {
    const runs = seeds.flatMap((seed) => finished.get(fileOf(out, method, seed)) ?? []);
    return runs.length > 0 ? [rowOf(method, runs)] : [];
  });
  return { rows, stopped: finished.size < queue.length };
}

function fileOf(out: string, method: string, seed: number): string {
  return path.join(out, `${encodeURIComponent(method)}-${seed}.json`);
}

function checkpointOf(file: string): string {
  return file.replace(/json$/, 'safetensors');
}

function refuse(argument: string, got: string, expected: string): never {
  throw new ArgumentError(`compare: '${argument}' ${got}, expected ${expected}`, {
    kernel: 'compare',
    argument,
    got,
    expected,
  });
}

function checkLists({ methods, seeds, train: images, test, ...options }: CompareOptions): void {
  if (methods.length === 0) refuse('methods', 'is empty', 'at least one');
  const unknown = methods.find((name) => !methodNamed(name));
  if (unknown !== undefined) refuse('methods', `has '${unknown}'`, `some of ${methodNames().join(', ')}`);
  if (new Set(methods).size < methods.length) refuse('methods', `is ${methods.join(', ')}`, 'each once');
  const isSeed = (seed: number): boolean => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32;
  if (seeds.length === 0 || !seeds.every(isSeed) || new Set(seeds).size < seeds.length) {
    refuse('seeds', `is [${seeds.join(', ')}]`, 'whole numbers from 0 to 4294967295, each once');
  }
  if (!Number.isInteger(options.epochs) || options.epochs < 1) {
    refuse('epochs', `is ${options.epochs}`, 'a whole number of at least 1');
  }
  for (const argument of ['lrOf', 'optionsOf'] as const) {
    const stray = Object.keys(options[argument] ?? {}).find((name) => !methods.includes(name));
    if (stray !== undefined) refuse(argument, `names '${stray}'`, `one of the methods compared: ${methods.join(', ')}`);
  }
  for (const rate of [options.lr ?? 1e-3, ...Object.values(options.lrOf ?? {})]) {
    if (!(rate >= 0 && Number.isFinite(rate))) refuse('lr', `is ${rate}`, 'a number of at least 0');
  }
  if (test.classes.join('/') !== images.classes.join('/')) {
    refuse('test', `has the classes ${test.classes.join(', ')}`, `those of 'train': ${images.classes.join(', ')}`);
  }
}

function make({ train: { classes }, model, optionsOf }: CompareOptions, method: string, seed: number, backbone: Vit) {
  const options = { ...model, ...optionsOf?.[method] };
  return methodNamed(method)!(backbone, { ...options, classes: classes.length, labels: classes, seed } as ModelOptions);
}

/** What a run's numbers depend on, by method; the seed aside. Models are made for it, so an option that makes no sense is found before anything is trained. */
async function settingsOf(options: CompareOptions): Promise<Map<string, Settings>> {
  const { epochs, batchSize = 32, lr = 1e-3, weightDecay = 0.05, lrOf } = options;
  const settings = new Map<string, Settings>();
  let backbone: Vit | undefined;
  try {
    for (const method of options.methods) {
      backbone ??= await options.backbone();
      const tensors = backbone.names().length;
      using model = make(options, method, 0, backbone);
      const { dropPath, labelSmoothing, pool, retain, prefix } = model.options;
      settings.set(method, {
        method,
        options: { ...model.methodOptions },
        ...{ epochs, batchSize, lr: lrOf?.[method] ?? lr, weightDecay },
        ...{ dropPath, labelSmoothing, pool, retain, prefix },
        backbone: backbone.fingerprint,
        dtype: backbone.dtype,
        device: backbone.device.name,
        train: fingerprintOf(options.train),
        test: fingerprintOf(options.test),
      });
      if (backbone.names().length < tensors) {
        backbone.dispose();
        backbone = undefined;
      }
    }
  } finally {
    backbone?.dispose();
  }
  return settings;
}

/** Tells data sets apart by classes and names of files, wherever the folder lies. */
function fingerprintOf({ classes, samples }: Images): string {
  const names = samples.map((sample) => `${classes[sample.label]}/${path.basename(sample.path)}`);
  const hash = createHash('sha256')
    .update([...classes, ...names].join('\n'))
    .digest('hex');
  return `${samples.length} images, ${hash.slice(0, 12)}`;
}

/** Refuses a run of other settings; those that a checkpoint has besides are its own. */
function checkSame(what: string, stored: Settings, expected: Settings): void {
  for (const name of Object.keys(expected)) {
    const [got, wanted] = [JSON.stringify(stored[name]), JSON.stringify(expected[name])];
    if (got === wanted) continue;
    throw new ArgumentError(
      `${what} with ${name} ${got}, this one has ${wanted}; expected the same settings, or another folder`,
      { kernel: 'compare', argument: name, got: String(got), expected: String(wanted) },
    );
  }
}

const numbers = ['seed', 'accuracy', 'loss', 'parameters', 'peakBytes', 'imagesPerSecond'] as const;

/** What a file of a finished run holds. */
function readResult(file: string): { settings: Settings; result: CompareRun } {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw fileError('read', file, cause);
  }
  let found: { settings?: Settings; result?: CompareRun } | null;
  try {
    found = JSON.parse(text);
  } catch {
    found = null;
  }
  const { settings, result } = found ?? {};
  if (!settings || !result || !numbers.every((name) => Number.isFinite(result[name]))) {
    throw new FormatError(`${file}: holds no result of a comparison`, { argument: 'result', got: 'something else' });
  }
  return { settings, result };
}

/** Undefined when it was stopped. */
async function runOne(
  options: CompareOptions,
  method: string,
  seed: number,
  settings: Settings,
  report: Pick<TrainOptions, 'onProgress' | 'onInitialize'>,
): Promise<CompareRun | undefined> {
  const { epochs, batchSize = 32, lr = 1e-3, weightDecay = 0.05, lrOf, signal } = options;
  const checkpoint = checkpointOf(fileOf(options.out, method, seed));
  using backbone = await options.backbone();
  using model = make(options, method, seed, backbone);
  model.device.resetPeak();
  const { stopped, test, peakBytes, imagesPerSecond } = await train(model, {
    train: options.train,
    test: options.test,
    ...{ epochs, batchSize, lr: lrOf?.[method] ?? lr, weightDecay, seed, checkpoint, settings, ...report },
    resume: true,
    ...(signal ? { signal } : {}),
  });
  if (stopped) return undefined;
  if (!test) {
    // All epochs were done when the process ended before the result was written.
    rmSync(checkpoint, { force: true });
    model.dispose();
    backbone.dispose();
    return runOne(options, method, seed, settings, report);
  }
  const { accuracy, loss } = test;
  return { method, seed, accuracy, loss, parameters: model.parameterCount, peakBytes, imagesPerSecond };
}

function rowOf(method: string, runs: CompareRun[]): CompareRow {
  const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const accuracies = runs.map(({ accuracy }) => accuracy);
  const accuracy = mean(accuracies);
  const squares = accuracies.reduce((sum, value) => sum + (value - accuracy) ** 2, 0);
  return {
    method,
    seeds: runs.map(({ seed }) => seed),
    accuracy,
    deviation: runs.length > 1 ? Math.sqrt(squares / (runs.length - 1)) : null,
    parameters: runs[0]!.parameters,
    peakBytes: Math.max(...runs.map(({ peakBytes }) => peakBytes)),
    imagesPerSecond: mean(runs.map(({ imagesPerSecond }) => imagesPerSecond)),
    runs,
  };
}
