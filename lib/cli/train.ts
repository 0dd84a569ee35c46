/** `sidetune train`: fine-tunes a backbone on a folder of images. */

import { existsSync, mkdirSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Command } from 'commander';
import { host } from '../../bench';
import { ArgumentError } from '../errors';
import { fileError } from '../io/atomic';
import { type ModelOptions, methodNamed, methodNames } from '../petl';
import type { Trace } from '../trace';
import { type TrainProgress, train } from '../train';
import { bytes, digits, percent } from './format';
import { methodOf } from './method_file';
import { addBackboneOptions, type BackboneOptions, openImages, withBackbone } from './model_options';
import { number, setting, wholeNumber } from './options';
import { jsonOption, present, right } from './output';
import { signal, trained } from './session';
import { presentTraces, traceOption } from './trace';

interface Options extends BackboneOptions {
  data: string;
  test?: string;
  method: string;
  option?: Record<string, unknown>;
  epochs: number;
  batch: number;
  lr: number;
  weightDecay: number;
  dropPath: number;
  seed: number;
  out: string;
  resume?: boolean;
  trace?: string;
  json?: string;
}

/** An epoch, as tables and JSON show it. */
type EpochRow = Pick<TrainProgress, 'epoch' | 'loss' | 'accuracy' | 'lr' | 'imagesPerSecond' | 'peakBytes' | 'test'>;

const figures = [
  right<EpochRow>('epoch', ({ epoch }) => String(epoch)),
  right<EpochRow>('loss', ({ loss }) => loss.toFixed(4)),
  right<EpochRow>('accuracy', ({ accuracy }) => percent(accuracy)),
  right<EpochRow>('test accuracy', ({ test }) => (test ? percent(test.accuracy) : '-')),
  right<EpochRow>('images/s', ({ imagesPerSecond }) => digits(imagesPerSecond)),
  right<EpochRow>('peak', ({ peakBytes }) => bytes(peakBytes)),
];

export function addTrainCommand(program: Command): void {
  const command = program
    .command('train')
    .description('fine-tune a backbone on images in folders, one folder per class')
    .requiredOption('--data <dir>', 'images to train on: DIR/<class>/*.png, …')
    .option('--test <dir>', 'images to test on after the last epoch, with the same classes')
    .requiredOption('--out <dir>', 'gets adapter.safetensors and, to go on from, checkpoint.safetensors');
  addBackboneOptions(command)
    .option('--method <name|file>', `${methodNames().join(', ')}; or a file that defines one`, 'dtlPlus')
    .option(
      '--option <name=value>',
      'of the method or the model, may come several times: rank=4, startBlock=1, …; an unknown one says which there are',
      setting,
    )
    .option('--epochs <n>', 'passes over the images', wholeNumber(1), 100)
    .option('--batch <n>', 'images in a batch', wholeNumber(1), 32)
    .option('--lr <rate>', 'highest learning rate', number(0), 1e-3)
    .option('--weight-decay <rate>', 'of AdamW', number(0), 0.05)
    .option('--drop-path <rate>', 'stochastic depth at the last block', number(0, 1), 0)
    .option('--seed <n>', 'of initial values, order and drop path', wholeNumber(0), 0)
    .option('--resume', 'go on from the checkpoint in --out, if there is one')
    .option(...traceOption('the third step of the run'))
    .option(...jsonOption)
    .action(run);
}

async function run(options: Options, command: Command): Promise<void> {
  const method = await methodOf(command, '--method', options.method);
  const checkpoint = path.join(options.out, 'checkpoint.safetensors');
  const adapter = path.join(options.out, 'adapter.safetensors');
  prepareFolder(options, checkpoint);
  await withBackbone(options, async (backbone) => {
    const { imageSize } = backbone.config;
    const images = await openImages(options.data, imageSize);
    const test = options.test === undefined ? undefined : await openImages(options.test, imageSize, images.classes);
    const { dropPath, seed, epochs, lr, weightDecay, batch: batchSize, resume = false } = options;
    using model = methodNamed(method)!(backbone, {
      classes: images.classes.length,
      labels: images.classes,
      dropPath,
      seed,
      ...options.option,
    } as ModelOptions);

    const rows: EpochRow[] = [];
    const traces: Trace[] = [];
    const summary = await trained((progress) =>
      train(model, {
        train: images,
        ...(test ? { test } : {}),
        ...{ epochs, batchSize, lr, weightDecay, seed, checkpoint, resume, signal },
        onInitialize: (seen, of) => progress.update({ images: seen, of }),
        onProgress: (state) => {
          progress.update(state);
          if (state.step === state.steps) rows.push(rowOf(state));
        },
        ...(options.trace === undefined ? {} : { onTrace: (trace: Trace) => traces.push(trace) }),
      }),
    );
    if (summary.stopped) {
      process.stderr.write(
        `stopped after ${summary.epochs} of ${epochs} epochs; --resume goes on from ${checkpoint}\n`,
      );
    } else {
      await model.save(adapter);
      process.stderr.write(`${adapter}: ${bytes(statSync(adapter).size)}\n`);
    }
    present('training', { host: host(model.device), rows }, { figures }, options.json);
    if (options.trace !== undefined) await presentTraces(options.trace, traces, options.json);
  });
}

function rowOf({ epoch, loss, accuracy, lr, imagesPerSecond, peakBytes, test }: TrainProgress): EpochRow {
  return { epoch, loss, accuracy, lr, imagesPerSecond, peakBytes, ...(test ? { test } : {}) };
}

/** Makes the folder; refuses to write over a run that could still be wanted. */
function prepareFolder({ out, resume }: Options, checkpoint: string): void {
  if (existsSync(checkpoint) && !resume) {
    throw new ArgumentError(
      `--out: '${out}' holds a run already; expected --resume to go on with it, or another folder`,
      {
        argument: 'out',
        got: out,
      },
    );
  }
  try {
    mkdirSync(out, { recursive: true });
  } catch (cause) {
    throw fileError('written', out, cause);
  }
}
