/** Our inference and training beside other software's on the same CPU: same weights, same images, samples in turn. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CpuInfo, Device } from '../../lib/device';
import { ArgumentError } from '../../lib/errors';
import * as models from '../../lib/models';
import type { PetlModel } from '../../lib/petl';
import type { TrainingBatch } from '../../lib/petl/model';
import type { Control, Result } from '../control';
import { type Compute, host, ratioInTurn, type Summary, summarize } from '../harness';
import { adapt, trainingBatches } from '../setup';
import { type Agreement, compareLogits, compareLosses } from './agreement';
import { type Contender, type Entry, nameOf, type PeerPool, sampleInTurn } from './contender';
import { OnnxruntimeInference } from './onnxruntime';
import { SidetuneInference, SidetuneTraining } from './sidetune';
import { Torch, type TorchFiles, type TorchTrainingSetup } from './torch';
import { type Weights, weightsOf, writeTensors } from './weights';

/** What torch_vit.py computes in. Our int8 is measured beside its bf16. */
const torchDtypes: readonly Compute[] = ['f32', 'bf16'];

/** Methods that torch_vit.py has, too. */
export const trainingMethods = ['linear', 'dtl', 'dtlPlus', 'dtlPlusStar', 'full'] as const;

export interface PeersOptions extends Control {
  /** One of `models.vitPresets`. */
  model: string;
  /** Ours, and those of PyTorch; onnxruntime computes in f32. */
  dtype: readonly Compute[];
  /** Of inference. */
  batch: readonly number[];
  /** Where the head reads in inference; in training it does as DTL's. */
  pool: PeerPool;
  /** Timed samples of each contender in inference. */
  samples: number;
  /** Of {@link trainingMethods}. */
  methods: readonly string[];
  trainBatch: number;
  /** Timed training steps of each contender. */
  steps: number;
  /** A Python that can import torch (see `findPython`); without one there is no PyTorch, and no training to compare. */
  python?: string | undefined;
  skipInference?: boolean;
  skipTraining?: boolean;
}

export interface PeersRow extends Agreement {
  task: 'inference' | 'training';
  model: string;
  /** null in inference: the plain backbone and a head. */
  method: string | null;
  pool: PeerPool;
  batch: number;
  software: string;
  version: string;
  dtype: Compute;
  imagesPerSecond: Summary;
  runs: number;
  /** Ours by dtype over this row, the median over turns. */
  sidetuneRatios: Partial<Record<Compute, number>>;
  /** Training, ours: all tensors and scratch, weights included. */
  tensorPeakBytes: number | null;
  /** Training, PyTorch: the process, Python and libraries included. */
  residentPeakBytes: number | null;
}

/** A sample of inference repeats the pass until it lasts this long. */
const sampleSeconds = 0.1;

/** Untimed steps whose losses are compared: the first shows the forward, the others what backward and AdamW made of it. */
const firstSteps = 3;

/** What all comparisons of a run share. */
interface Run extends PeersOptions {
  config: models.VitConfig;
  threads: number;
  /** For files that PyTorch reads. */
  folder: string;
  /** Says what comes now. */
  before(what: string): void;
}

/** A contender that is not there yet. */
interface Opener extends Pick<Contender, 'software' | 'dtype'> {
  open(): Promise<Contender>;
}

/** @throws ArgumentError for an unknown model, FileError when the packages of bench/peers are not installed, DeviceError when contenders do not compute the same */
export async function peers(options: PeersOptions): Promise<Result<PeersRow>> {
  const config = models.vitPresets[options.model];
  if (!config) {
    const known = Object.keys(models.vitPresets).join(', ');
    throw new ArgumentError(`peers: unknown model '${options.model}', known: ${known}`, {
      argument: 'model',
      got: options.model,
    });
  }
  const forTorch = options.python ? options.dtype.filter((dtype) => torchDtypes.includes(dtype)) : [];
  const batches = options.skipInference ? [] : options.batch;
  const trainings = options.skipTraining
    ? []
    : options.methods.flatMap((method) => forTorch.map((dtype) => ({ method, dtype })));
  // Each contender is opened, warmed up and sampled.
  const contenders = batches.length === 0 ? 0 : options.dtype.length + 1 + forTorch.length;
  const trained = trainings.reduce((sum, one) => sum + (withInt8(options.dtype, one) ? 3 : 2), 0);
  const total = contenders * (1 + batches.length * (1 + options.samples)) + trained * (1 + 1 + options.steps);
  let done = 0;
  const folder = mkdtempSync(join(tmpdir(), 'sidetune-peers-'));
  try {
    await using device = await Device.open('cpu');
    const { threads } = device.info() as CpuInfo;
    const before = (what: string): void => options.onProgress?.(done++, total, what);
    const run: Run = { ...options, config, threads, folder, before };
    const rows = batches.length === 0 ? [] : await inference(run, device, forTorch);
    for (const { method, dtype } of trainings) rows.push(...(await training(run, method, dtype)));
    options.onProgress?.(done, total, 'done');
    return { host: host(device), rows };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function inference(run: Run, device: Device, forTorch: readonly Compute[]): Promise<PeersRow[]> {
  const { model, dtype, config, threads, batch: batches, pool, samples, signal, before } = run;
  const data = trainingBatches()(Math.max(...batches), config.imageSize);
  const ours = (one: Compute) => adapt('linear', models.vit(device, model, { dtype: one }), { pool });
  const source = new SidetuneInference(ours('f32'), 'f32', data);
  const weights = await weightsOf(source.model);
  await source.close();
  const files = await writeFiles(run, weights, data);
  const openers: Opener[] = [
    ...dtype.map((one) => ({
      software: 'sidetune',
      dtype: one,
      open: async () => new SidetuneInference(ours(one), one, data),
    })),
    {
      software: 'onnxruntime',
      dtype: 'f32',
      open: () => OnnxruntimeInference.open(config, weights, { images: data.images, threads, pool }),
    },
    ...forTorch.map((one) => ({
      software: 'torch',
      dtype: one,
      open: () => Torch.open(run.python!, { task: 'inference', dtype: one, threads, config, pool, ...files }),
    })),
  ];
  return await withContenders(run, openers, async (contenders) => {
    const rows: PeersRow[] = [];
    for (const batch of batches) {
      const at = (contender: Contender): string => `${nameOf(contender)} batch ${batch}`;
      const entries: Entry[] = [];
      for (const contender of contenders) {
        if (signal?.aborted) return rows;
        before(at(contender));
        const last = await contender.run(batch, 1); // touches all memory
        const { seconds } = await contender.run(batch, 1);
        entries.push({ contender, last, passes: Math.max(1, Math.ceil(sampleSeconds / seconds)), imagesPerSecond: [] });
      }
      const reference = entries.find(({ contender }) => contender.dtype === 'f32')!.last.values;
      const agreements = entries.map(({ contender, last }) => compareLogits(contender, last.values, reference, batch));
      await sampleInTurn(entries, { batch, samples, signal, before: (entry) => before(at(entry.contender)) });
      rows.push(...rowsOf(entries, agreements, { task: 'inference', model, method: null, pool, batch }));
    }
    return rows;
  });
}

async function training(run: Run, method: string, dtype: Compute): Promise<PeersRow[]> {
  if (run.signal?.aborted) return [];
  // A device for each of our contenders: its peak is of one model.
  const devices: Device[] = [];
  try {
    return await trainOn(run, method, dtype, async () => {
      devices.push(await Device.open('cpu'));
      return devices.at(-1)!;
    });
  } finally {
    for (const device of devices) await device.close();
  }
}

/** Our int8 takes part beside bf16, where the method leaves the backbone as it is. */
function withInt8(dtypes: readonly Compute[], { method, dtype }: { method: string; dtype: Compute }): boolean {
  return dtype === 'bf16' && method !== 'full' && dtypes.includes('int8');
}

async function trainOn(
  run: Run,
  method: string,
  dtype: Compute,
  openDevice: () => Promise<Device>,
): Promise<PeersRow[]> {
  const { model, config, threads, trainBatch: batch, steps, signal, before } = run;
  const data = trainingBatches()(batch, config.imageSize);
  const pool = 'patch_mean_then_norm';
  const open = async (one: Compute): Promise<SidetuneTraining> => {
    const device = await openDevice();
    const contender = new SidetuneTraining(
      adapt(method, models.vit(device, model, { dtype: one }), { pool }),
      one,
      data,
    );
    wakeSideLayers(contender.model);
    return contender;
  };
  const ours = await open(dtype);
  const openTorch = async (): Promise<Contender> => {
    const files = await writeFiles(run, await weightsOf(ours.model), data);
    return await Torch.open(run.python!, trainingSetup(ours, threads, files));
  };
  const openers: Opener[] = [
    { software: 'sidetune', dtype, open: async () => ours },
    ...(withInt8(run.dtype, { method, dtype })
      ? [{ software: 'sidetune', dtype: 'int8' as const, open: () => open('int8') }]
      : []),
    { software: 'torch', dtype, open: openTorch },
  ];
  return await withContenders(run, openers, async (contenders) => {
    const at = (contender: Contender): string => `${nameOf(contender)} ${method} batch ${batch}`;
    const entries: Entry[] = [];
    for (const contender of contenders) {
      if (signal?.aborted) return [];
      before(at(contender));
      entries.push({ contender, last: await contender.run(batch, firstSteps), passes: 1, imagesPerSecond: [] });
    }
    const reference = entries[0]!.last.values;
    const agreements = entries.map(({ contender, last }) => compareLosses(contender, last.values, reference));
    await sampleInTurn(entries, { batch, samples: steps, signal, before: (entry) => before(at(entry.contender)) });
    return rowsOf(entries, agreements, { task: 'training', model, method, pool, batch });
  });
}

/** What PyTorch is told, so that it trains what we train. */
export function trainingSetup(
  { model, dtype, data, optimizer }: SidetuneTraining,
  threads: number,
  files: TorchFiles,
): TorchTrainingSetup {
  const { startBlock, beta } = model.methodOptions as { startBlock?: number; beta?: number };
  const { lr, betas, eps, weightDecay } = optimizer;
  return {
    task: 'training',
    dtype,
    threads,
    config: model.backbone.config,
    pool: model.options.pool as PeerPool,
    ...files,
    labels: [...data.labels],
    parameters: model.parameters().map(({ name, decay }) => ({ name, decay })),
    adamw: { lr, betas, eps, weightDecay },
    side: startBlock === undefined ? null : { startBlock, beta: beta! },
  };
}

/** Side layers start at zero; here they must have a say in the losses that are compared, from the first step on. */
export function wakeSideLayers(model: PetlModel): void {
  for (const { name, tensor } of model.parameters()) {
    if (!/^side\.\d+\.c$/.test(name)) continue;
    tensor.write(Float32Array.from({ length: tensor.size }, (_, i) => Math.sin(i)));
  }
}

/** Opens contenders for as long as `body` runs; no rows when the run is stopped before all are there. */
async function withContenders(
  { signal, before }: Run,
  openers: readonly Opener[],
  body: (contenders: readonly Contender[]) => Promise<PeersRow[]>,
): Promise<PeersRow[]> {
  const contenders: Contender[] = [];
  try {
    for (const opener of openers) {
      if (signal?.aborted) return [];
      before(`opening ${nameOf(opener)}`);
      contenders.push(await opener.open());
    }
    return await body(contenders);
  } finally {
    for (const contender of contenders) await contender.close();
  }
}

/** Weights and images for PyTorch, if there is one; overwrites those of the comparison before. */
export async function writeFiles(
  { python, folder, config }: Pick<Run, 'python' | 'folder' | 'config'>,
  weights: Weights,
  { images }: TrainingBatch,
): Promise<TorchFiles> {
  const files = { weights: join(folder, 'weights.safetensors'), images: join(folder, 'images.safetensors') };
  if (!python) return files;
  const side = config.imageSize;
  const shape = [images.length / (3 * side * side), 3, side, side];
  await writeTensors(files.weights, weights);
  await writeTensors(files.images, new Map([['images', { shape, data: images }]]));
  return files;
}

function rowsOf(
  entries: readonly Entry[],
  agreements: readonly Agreement[],
  common: Pick<PeersRow, 'task' | 'model' | 'method' | 'pool' | 'batch'>,
): PeersRow[] {
  const measured = entries
    .map(({ contender, imagesPerSecond, last }, i) => ({ contender, imagesPerSecond, last, agreement: agreements[i]! }))
    .filter(({ imagesPerSecond }) => imagesPerSecond.length > 0);
  const ours = measured.filter(({ contender }) => contender.software === 'sidetune');
  return measured.map(({ contender, imagesPerSecond, last, agreement }) => {
    const ratios = ours.map((one) => [one.contender.dtype, ratioInTurn(one.imagesPerSecond, imagesPerSecond)]);
    return {
      ...common,
      software: contender.software,
      version: contender.version,
      dtype: contender.dtype,
      imagesPerSecond: summarize(imagesPerSecond),
      runs: imagesPerSecond.length,
      sidetuneRatios: Object.fromEntries(ratios),
      ...agreement,
      tensorPeakBytes: (common.task === 'training' && last.tensorPeakBytes) || null,
      residentPeakBytes: (common.task === 'training' && last.residentPeakBytes) || null,
    };
  });
}
