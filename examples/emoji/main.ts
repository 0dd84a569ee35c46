/**
 * The main job, `npm start`: adapts a small ViT, pre-trained on Google's emoji pictures, to Twitter's with 1,000 images of nine categories; Linear, DTL and
 * DTL+ one after the other. Then classifies some named pictures with the saved and re-loaded DTL+ adapter, and measures the throughput of a ViT-B/16.
 */

import { mkdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { table } from '../../bench/harness';
import { type CpuInfo, Device, data, models, petl, train } from '../../lib';
import { run } from '../../lib/cli/program';
import { trainingProgress } from '../../lib/cli/progress';
import { adaptation, type EmojiSample, exampleFolder } from './dataset';
import { backbonePath } from './pretrain';

const epochs = 16;
const batchSize = 32;

/** Learning rates as examples/emoji/README.md explains. */
const contenders = [
  { title: 'Linear', lr: 1e-2, make: petl.linear },
  { title: 'DTL', lr: 3e-3, make: petl.dtl },
  { title: 'DTL+', lr: 3e-3, make: petl.dtlPlus },
] as const;

interface Row {
  title: string;
  parameters: number;
  peakBytes: number;
  imagesPerSecond: number;
  accuracy: number;
}

const round = (value: number, digits: number): string => value.toFixed(digits);

export async function adapt(device: Device, log: (line: string) => void): Promise<{ rows: Row[]; adapter: string }> {
  const split = adaptation();
  const [training, test] = await Promise.all([data.loadDataset(split.train), data.loadDataset(split.test)]);
  log(
    `${training.length} training pictures, ${test.length} test pictures of concepts never seen in training, ${training.classes.length} categories`,
  );
  const backbone = await models.load(device, backbonePath(), { dtype: 'bf16' });
  const runs = join(exampleFolder(), 'runs');
  mkdirSync(runs, { recursive: true });
  const rows: Row[] = [];
  let adapter = '';
  for (const { title, lr, make } of contenders) {
    const model = make(backbone, { classes: training.classes.length, labels: training.classes });
    device.resetPeak();
    log(title);
    const progress = trainingProgress(process.stderr);
    const summary = await train.train(model, {
      train: training,
      test,
      epochs,
      batchSize,
      lr,
      onProgress: (state) => progress.update(state),
    });
    progress.done();
    rows.push({
      title,
      parameters: model.parameterCount,
      peakBytes: summary.peakBytes,
      imagesPerSecond: summary.imagesPerSecond,
      accuracy: summary.test!.accuracy,
    });
    adapter = join(runs, `${model.method}.safetensors`);
    await model.save(adapter);
    model.dispose();
  }
  backbone.dispose();
  return { rows, adapter };
}

async function classify(
  device: Device,
  adapter: string,
  samples: readonly EmojiSample[],
  classes: readonly string[],
): Promise<string> {
  const backbone = await models.load(device, backbonePath(), { dtype: 'bf16' });
  const model = await petl.load(backbone, adapter);
  const predictions = await train.predict(
    model,
    samples.map(({ path }) => path),
  );
  model.dispose();
  backbone.dispose();
  return table(
    [
      { title: 'picture', align: 'left', value: ({ sample }) => sample.name },
      { title: 'category', align: 'left', value: ({ sample }) => classes[sample.label]! },
      { title: 'answer', align: 'left', value: ({ best }) => best.label },
      { title: 'probability', value: ({ best }) => round(best.probability, 2) },
    ],
    predictions.map(({ classes: ranked }, index) => ({ sample: samples[index]!, best: ranked[0]! })),
  );
}

/** One held-out picture of each of the first categories, the same ones in every run. */
function handful(samples: readonly EmojiSample[], count: number): EmojiSample[] {
  const chosen = new Map<number, EmojiSample>();
  for (const sample of samples) if (!chosen.has(sample.label)) chosen.set(sample.label, sample);
  return [...chosen.values()].slice(0, count);
}

async function main(): Promise<void> {
  const device = await Device.open('cpu');
  const info = device.info() as CpuInfo;
  console.log(`${info.processor}, ${info.threads} threads, ${info.simd}, ${info.gemm}`);
  const { rows, adapter } = await adapt(device, console.log);
  console.log(
    `\n${table(
      [
        { title: 'method', align: 'left', value: ({ title }) => title },
        { title: 'trainable parameters', value: ({ parameters }) => parameters.toLocaleString('en') },
        { title: 'peak memory (MB)', value: ({ peakBytes }) => round(peakBytes / 1e6, 1) },
        { title: 'training images/s', value: ({ imagesPerSecond }) => round(imagesPerSecond, 0) },
        { title: 'test accuracy', value: ({ accuracy }) => round(accuracy, 3) },
      ],
      rows,
    )}\n(trainable parameters without the head; memory of all tensors and scratch, weights included)`,
  );
  const { test } = adaptation();
  const chosen = handful(test.samples, 8);
  console.log(
    `\nheld-out pictures, by the DTL+ adapter ${relative('.', adapter)}:\n${await classify(device, adapter, chosen, test.classes)}`,
  );
  await device.close();

  console.log('\ninference throughput of a ViT-B/16 with random weights:');
  process.exitCode = await run('bench throughput --batch 1,4 --samples 5'.split(' '));
}

if (require.main === module) {
  main().catch((error) => {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  });
}
