/** What `train`, `evaluate` and `predict` share: the backbone, and images in folders. */

import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { type Dataset, imageFolder, type LoadedDataset, loadDataset } from '../data';
import { Device } from '../device';
import { ArgumentError } from '../errors';
import * as models from '../models';
import { deviceOption, oneOf } from './options';
import { counted, signal } from './session';

export interface BackboneOptions {
  backbone: string;
  dtype: models.ComputeDtype;
  device: string;
}

/** Data sets up to this many bytes of pixels are decoded once and kept. */
const keptBytes = 2 ** 30;

export function addBackboneOptions(command: Command): Command {
  const presets = Object.keys(models.vitPresets).join(', ');
  return command
    .requiredOption(
      '--backbone <file|preset>',
      `a .safetensors file with timm's names; or with random weights: ${presets}`,
    )
    .option(
      '--dtype <dtype>',
      `${models.computeDtypes.join(', ')}: of matrices and tokens`,
      oneOf(models.computeDtypes),
      'f32',
    )
    .option(...deviceOption);
}

/** Opens a device for as long as `body` runs, which makes backbones on it as often as it likes. */
export async function withBackbones<T>(
  { backbone: source, dtype, device: name }: BackboneOptions,
  body: (open: () => Promise<models.Vit>) => Promise<T>,
): Promise<T> {
  await using device = await Device.open(name);
  let opened = 0;
  return await body(() => openBackbone(device, source, dtype, { quiet: opened++ > 0 }));
}

/** Opens a device with a backbone for as long as `body` runs. */
export async function withBackbone<T>(
  { backbone: source, dtype, device: name }: BackboneOptions,
  body: (backbone: models.Vit) => Promise<T>,
): Promise<T> {
  await using device = await Device.open(name);
  using backbone = await openBackbone(device, source, dtype);
  return await body(backbone);
}

async function openBackbone(
  device: Device,
  source: string,
  dtype: models.ComputeDtype,
  { quiet = false } = {},
): Promise<models.Vit> {
  if (existsSync(source)) return models.load(device, source, { dtype });
  if (!Object.hasOwn(models.vitPresets, source)) {
    const known = Object.keys(models.vitPresets).join(', ');
    throw new ArgumentError(`--backbone is '${source}', which is neither a file nor one of ${known}`, {
      argument: 'backbone',
      got: source,
    });
  }
  if (!quiet) process.stderr.write(`note: the weights of '${source}' are random; a file brings trained ones\n`);
  return models.vit(device, source, { dtype });
}

/** The images of a folder with one folder per class; small sets are decoded now, others batch by batch. */
export async function openImages(
  folder: string,
  size: number,
  classes?: readonly string[],
): Promise<Dataset | LoadedDataset> {
  const dataset = imageFolder(folder, { size, ...(classes ? { classes } : {}) });
  if (dataset.length * size * size * 3 > keptBytes) return dataset;
  return await counted((progress) =>
    loadDataset(dataset, {
      onProgress: (done, total) => {
        signal.throwIfAborted();
        progress.update({ done, total, what: `reading ${folder}` });
      },
    }),
  );
}
