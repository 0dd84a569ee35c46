/** `sidetune evaluate` and `sidetune predict`: what a trained adapter makes of images. */

import type { Command } from 'commander';
import { type Column, host } from '../../bench';
import { ArgumentError } from '../errors';
import { load, type PetlModel } from '../petl';
import { evaluate, type Prediction, predict } from '../train';
import { percent } from './format';
import { loadMethodFiles, methodFileOption } from './method_file';
import { addBackboneOptions, type BackboneOptions, openImages, withBackbone } from './model_options';
import { wholeNumber } from './options';
import { jsonOption, left, present, right } from './output';
import { counted, signal } from './session';

interface Options extends BackboneOptions {
  adapter: string;
  batch: number;
  method?: string[];
  json?: string;
}

interface EvaluationRow {
  data: string;
  images: number;
  loss: number;
  accuracy: number;
}

function addModelCommand(program: Command, name: string, description: string): Command {
  const command = program
    .command(name)
    .description(description)
    .requiredOption('--adapter <file>', 'the adapter.safetensors of a training run');
  return addBackboneOptions(command)
    .option(...methodFileOption)
    .option('--batch <n>', 'images in a batch', wholeNumber(1), 32)
    .option(...jsonOption);
}

async function withModel(options: Options, body: (model: PetlModel) => Promise<void>): Promise<void> {
  await loadMethodFiles(options.method);
  return withBackbone(options, async (backbone) => {
    using model = await load(backbone, options.adapter);
    await body(model);
  });
}

export function addEvaluateCommand(program: Command): void {
  const figures = [
    left<EvaluationRow>('data', ({ data }) => data),
    right<EvaluationRow>('images', ({ images }) => String(images)),
    right<EvaluationRow>('loss', ({ loss }) => loss.toFixed(4)),
    right<EvaluationRow>('accuracy', ({ accuracy }) => percent(accuracy)),
  ];
  addModelCommand(program, 'evaluate', 'loss and top-1 accuracy of an adapter on images in folders')
    .requiredOption('--data <dir>', "images: DIR/<class>/*.png, …, with the adapter's classes")
    .action((options: Options & { data: string }) =>
      withModel(options, async (model) => {
        const { classes, labels } = model.options;
        const images = await openImages(options.data, model.backbone.config.imageSize, labels);
        if (images.classes.length !== classes) {
          const got = images.classes.length;
          throw new ArgumentError(`--data: '${options.data}' has ${got} classes, expected the adapter's ${classes}`);
        }
        const result = await counted((progress) =>
          evaluate(model, images, {
            batchSize: options.batch,
            onProgress: (done, total) => {
              signal.throwIfAborted();
              progress.update({ done, total, what: `evaluating ${options.data}` });
            },
          }),
        );
        present(
          'evaluate',
          { host: host(model.device), rows: [{ data: options.data, ...result }] },
          { figures },
          options.json,
        );
      }),
    );
}

export function addPredictCommand(program: Command): void {
  addModelCommand(program, 'predict', 'the most likely classes of image files')
    .argument('<image...>', 'image files')
    .option('--top <n>', 'classes to show of each image', wholeNumber(1), 5)
    .action((paths: string[], options: Options & { top: number }) =>
      withModel(options, async (model) => {
        const rows: Prediction[] = [];
        await counted(async (progress) => {
          for (let from = 0; from < paths.length && !signal.aborted; from += options.batch) {
            progress.update({ done: from, total: paths.length, what: 'classifying' });
            rows.push(...(await predict(model, paths.slice(from, from + options.batch))));
          }
        });
        present(
          'predict',
          { host: host(model.device), rows },
          { figures: predictionColumns(options.top) },
          options.json,
        );
      }),
    );
}

/** A row for each image; the columns 1., 2., … hold the class and its probability. */
function predictionColumns(top: number): Column<Prediction>[] {
  const ranks = Array.from({ length: top }, (_, rank) =>
    left<Prediction>(`${rank + 1}.`, ({ classes }) => {
      const entry = classes[rank];
      return entry ? `${entry.label} ${percent(entry.probability)}` : '';
    }),
  );
  return [left('image', ({ path }) => path), ...ranks];
}
