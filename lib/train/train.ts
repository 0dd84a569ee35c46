import { existsSync } from 'node:fs';
import { type Augment, type Batch, batchCount, batches, type Dataset, type LoadedDataset } from '../data';
import { adamW, cosineSchedule } from '../optim';
import type { PetlModel, StepResult } from '../petl';
import { type Trace, traced } from '../trace';
import { loadCheckpoint, type Progress, saveCheckpoint } from './checkpoint';
import { evaluate } from './evaluate';

type Images = Dataset | LoadedDataset;

export interface TrainOptions {
  train: Images;
  /** Evaluated after the last epoch, and after every `evaluateEvery` epochs. */
  test?: Images;
  epochs: number;
  /** Default 32. */
  batchSize?: number;
  /** Highest learning rate. Default 1e-3. */
  lr?: number;
  /** Default 0.05. */
  weightDecay?: number;
  /** Epochs of linear warm-up. Default: a tenth of the epochs. */
  warmupEpochs?: number;
  /** Epochs at the end that stay at the floor of the schedule; part of `epochs`. Default 0 (DTL's published runs: 10 of 110). */
  cooldownEpochs?: number;
  /** Of the order of images and of augmentation. Default 0. */
  seed?: number;
  augment?: Augment;
  /** Leave out the last batch of an epoch when it is smaller. Default false. */
  dropLast?: boolean;
  evaluateEvery?: number;
  /** Where the state is saved after every epoch, and when the run is stopped. */
  checkpoint?: string;
  /** Goes on from the checkpoint if there is one. */
  resume?: boolean;
  /** Further facts of the run, such as where its images come from: to go on from a checkpoint, they must be the same. */
  settings?: Readonly<Record<string, unknown>>;
  /** While images are looked at for the method's initial values ({@link PetlModel.initialize}): how many of how many. */
  onInitialize?(images: number, of: number): void;
  /** Called before each step. */
  beforeStep?(): void;
  /** Stops after the step that is running; the state is saved. */
  signal?: AbortSignal;
  onProgress?(progress: TrainProgress): void;
  /** Given: the third step of the run, or the last one of a shorter run, is recorded, see {@link Trace}. */
  onTrace?(trace: Trace): void;
}

/** By then everything that lasts has been made, and all memory has been touched. */
const tracedStep = 3;

export interface TrainProgress {
  /** Counted from 1. */
  epoch: number;
  epochs: number;
  step: number;
  steps: number;
  /** Mean over the epoch so far. */
  loss: number;
  accuracy: number;
  lr: number;
  imagesPerSecond: number;
  peakBytes: number;
  secondsLeft: number;
  /** On the last progress of an epoch in which the test set was evaluated. */
  test?: { loss: number; accuracy: number };
}

export interface TrainSummary {
  epochs: number;
  loss: number;
  accuracy: number;
  test?: { loss: number; accuracy: number; images: number };
  /** In training, data loading included, evaluation not. */
  imagesPerSecond: number;
  peakBytes: number;
  stopped: boolean;
}

/**
 * Trains a model with AdamW and timm's cosine schedule.
 * @throws ArgumentError for options, FormatError for a checkpoint of another run, whatever reading images throws
 */
export async function train(model: PetlModel, options: TrainOptions): Promise<TrainSummary> {
  const {
    epochs,
    batchSize = 32,
    lr = 1e-3,
    weightDecay = 0.05,
    seed = 0,
    dropLast = false,
    evaluateEvery = 0,
    cooldownEpochs = 0,
  } = options;
  const warmupEpochs = options.warmupEpochs ?? Math.ceil(epochs / 10);
  const schedule = cosineSchedule({ lr, epochs: epochs - cooldownEpochs, warmupEpochs });
  const settings = {
    epochs,
    batchSize,
    lr,
    weightDecay,
    seed,
    dropLast,
    warmupEpochs,
    cooldownEpochs,
    images: options.train.length,
    dtype: model.backbone.dtype,
    dropPath: model.options.dropPath,
    labelSmoothing: model.options.labelSmoothing,
    pool: model.options.pool,
    modelSeed: model.options.seed,
    augmented: options.augment !== undefined,
    ...options.settings,
  };
  const steps = batchCount(options.train.length, { batchSize, dropLast });
  const optimizer = adamW(model.parameters(), { lr, weightDecay });
  let progress: Progress = { epoch: 0, batch: 0, lossSum: 0, correct: 0, images: 0 };
  let test: TrainSummary['test'];
  let trainedImages = 0;
  let seconds = 0;
  const stopped = (): boolean => options.signal?.aborted ?? false;
  let peakBefore = 0; // of the parts of the run before this one
  const peakBytes = (): number => Math.max(peakBefore, model.device.memory().peakBytes);
  const save = async (): Promise<void> => {
    const state = { ...progress, peakBytes: peakBytes() };
    if (options.checkpoint) await saveCheckpoint(options.checkpoint, model, optimizer, state, settings);
  };
  try {
    if (options.resume && options.checkpoint && existsSync(options.checkpoint)) {
      progress = await loadCheckpoint(options.checkpoint, model, optimizer, settings);
      peakBefore = progress.peakBytes ?? 0;
      model.initialized = true;
    } else {
      await initialize(model, options);
    }
    let last = { loss: Number.NaN, accuracy: Number.NaN };
    const stepsLeft = (epochs - progress.epoch) * steps - progress.batch;
    let untilTraced = options.onTrace ? Math.min(tracedStep, stepsLeft) : 0;
    while (progress.epoch < epochs && !stopped()) {
      const { epoch } = progress;
      optimizer.lr = schedule(epoch);
      const loader = batches(options.train, {
        batchSize,
        dropLast,
        size: model.backbone.config.imageSize,
        shuffle: { seed, epoch },
        startBatch: progress.batch,
        ...(options.augment ? { augment: options.augment } : {}),
      });
      const report = (extra: Partial<TrainProgress> = {}): void => {
        const rate = trainedImages / Math.max(seconds, 1e-9);
        const left = (epochs - epoch) * options.train.length - progress.images;
        last = { loss: progress.lossSum / progress.images, accuracy: progress.correct / progress.images };
        options.onProgress?.({
          epoch: epoch + 1,
          epochs,
          step: progress.batch,
          steps,
          ...last,
          lr: optimizer.lr,
          imagesPerSecond: rate,
          peakBytes: peakBytes(),
          secondsLeft: Math.max(0, left) / Math.max(rate, 1e-9),
          ...extra,
        });
      };
      let start = performance.now();
      for await (const batch of loader as AsyncIterable<Batch>) {
        options.beforeStep?.();
        const step = (): Promise<StepResult> => model.step(batch, optimizer);
        const label = `epoch ${epoch + 1} step ${progress.batch + 1}`;
        const isTraced = untilTraced-- === 1;
        const result = await (isTraced ? traced(model.device, label, step, options.onTrace!) : step());
        const now = performance.now();
        seconds += (now - start) / 1000;
        start = now;
        trainedImages += result.images;
        progress = {
          epoch,
          batch: progress.batch + 1,
          lossSum: progress.lossSum + result.loss * result.images,
          correct: progress.correct + result.correct,
          images: progress.images + result.images,
        };
        if (progress.batch < steps) report();
        if (stopped()) break;
      }
      if (progress.batch < steps) break;
      const due = options.test && (epoch + 1 === epochs || (evaluateEvery > 0 && (epoch + 1) % evaluateEvery === 0));
      test = due ? await evaluate(model, options.test!, { batchSize }) : undefined;
      report(test ? { test } : {});
      progress = { epoch: epoch + 1, batch: 0, lossSum: 0, correct: 0, images: 0 };
      await save();
    }
    if (stopped() && model.initialized) await save();
    return {
      epochs: progress.epoch,
      ...last,
      ...(test ? { test } : {}),
      imagesPerSecond: trainedImages / Math.max(seconds, 1e-9),
      peakBytes: peakBytes(),
      stopped: progress.epoch < epochs,
    };
  } finally {
    optimizer.dispose();
  }
}

/** Initial values; a run that is stopped meanwhile has not begun. */
async function initialize(model: PetlModel, options: TrainOptions): Promise<void> {
  const { train, batchSize, seed = 0, signal, onInitialize } = options;
  const { imageSize } = model.backbone.config;
  const onSample = (images: number, most: number): void => onInitialize?.(images, Math.min(most, train.length));
  const samples = batches(train, { batchSize: batchSize ?? 32, size: imageSize, shuffle: { seed, epoch: 0 } });
  try {
    await model.initialize({ samples, onSample, ...(signal ? { signal } : {}) });
  } catch (error) {
    if (!signal?.aborted || error !== signal.reason) throw error;
  }
}
