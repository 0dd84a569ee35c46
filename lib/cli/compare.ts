/** `sidetune compare`: methods beside each other on one data set, over several seeds. */

import type { Command } from 'commander';
import { host, tableMethods } from '../../bench';
import { methodNames, type Pool, pools } from '../petl';
import { type CompareRow, type Comparison, compare, type RunInTurn } from '../train';
import { bytes, count, digits, percent } from './format';
import { methodsOf } from './method_file';
import { addBackboneOptions, type BackboneOptions, openImages, withBackbones } from './model_options';
import { listOf, number, oneOf, rateOf, settingOf, wholeNumber, wholeNumbers } from './options';
import { jsonOption, left, present, right } from './output';
import { notice, signal, trainedInTurn } from './session';

interface Options extends BackboneOptions {
  data: string;
  test: string;
  methods: string[];
  seeds: number[];
  epochs: number;
  batch: number;
  lr: number;
  lrOf?: Record<string, number>;
  optionOf?: Record<string, Record<string, unknown>>;
  weightDecay: number;
  dropPath: number;
  pool?: Pool;
  out: string;
  json?: string;
}

const figures = [
  left<CompareRow>('method', ({ method }) => method),
  right<CompareRow>('test accuracy', ({ accuracy, deviation }) =>
    deviation === null ? percent(accuracy) : `${(100 * accuracy).toFixed(1)} ± ${percent(deviation)}`,
  ),
  right<CompareRow>('seeds', ({ seeds }) => String(seeds.length)),
  right<CompareRow>('parameters', ({ parameters }) => count(parameters)),
  right<CompareRow>('peak', ({ peakBytes }) => bytes(peakBytes)),
  right<CompareRow>('images/s', ({ imagesPerSecond }) => digits(imagesPerSecond)),
];

export function addCompareCommand(program: Command): void {
  const command = program
    .command('compare')
    .description(
      'train several methods with several seeds on one data set; the same command goes on where it was stopped',
    )
    .requiredOption('--data <dir>', 'images to train on: DIR/<class>/*.png, …')
    .requiredOption('--test <dir>', 'images to test on after the last epoch, with the same classes')
    .requiredOption('--out <dir>', 'gets a JSON file of each finished run, and a checkpoint of one that was stopped');
  addBackboneOptions(command)
    .requiredOption(
      '--methods <list>',
      `${methodNames().join(', ')}, files that define some, or all (but noahSupernet)`,
      listOf(String),
    )
    .option('--seeds <list>', 'of initial values, order and drop path, such as 0,1 or 0-4', wholeNumbers(0), [0, 1, 2])
    .option('--epochs <n>', 'passes over the images', wholeNumber(1), 100)
    .option('--batch <n>', 'images in a batch', wholeNumber(1), 32)
    .option('--lr <rate>', 'highest learning rate', number(0), 1e-3)
    .option('--lr-of <method=rate>', 'that of one method, may come several times: full=3e-4', rateOf)
    .option(
      '--option-of <method.name=value>',
      'an option of one method, may come several times: vptDeep.prompts=5',
      settingOf,
    )
    .option('--weight-decay <rate>', 'of AdamW', number(0), 0.05)
    .option('--drop-path <rate>', 'stochastic depth at the last block', number(0, 1), 0)
    .option('--pool <where>', `where every method's head reads: ${pools.join(', ')} (default: its own)`, oneOf(pools))
    .option(...jsonOption)
    .action(run);
}

async function run(options: Options, command: Command): Promise<void> {
  const named = options.methods.flatMap((name) => (name === 'all' ? tableMethods : [name]));
  const methods = await methodsOf(command, '--methods', named);
  await withBackbones(options, async (open) => {
    const first = await open();
    const { device } = first;
    const { imageSize } = first.config;
    first.dispose();
    const images = await openImages(options.data, imageSize);
    const test = await openImages(options.test, imageSize, images.classes);
    const { seeds, epochs, batch: batchSize, lr, lrOf = {}, optionOf: optionsOf = {}, weightDecay, out } = options;
    const title = ({ method, seed, run: number, runs }: RunInTurn): string =>
      `${method}, seed ${seed} (${number} of ${runs})`;
    let trained = 0;
    const result: Comparison = await trainedInTurn((progress) =>
      compare({
        train: images,
        test,
        backbone: open,
        ...{ methods, seeds, epochs, batchSize, lr, lrOf, optionsOf, weightDecay, out, signal },
        model: { dropPath: options.dropPath, ...(options.pool ? { pool: options.pool } : {}) },
        onInitialize: (turn, seen, of) => progress.update({ images: seen, of, title: title(turn) }),
        onProgress: ({ training, ...turn }) => {
          trained++;
          progress.update({ ...training, title: title(turn) });
        },
      }),
    );
    if (result.stopped) process.stderr.write('stopped; the same command goes on\n');
    else if (trained === 0) notice(`all runs were finished in ${out} already`);
    present('compare', { host: host(device), rows: result.rows }, { figures }, options.json);
  });
}
