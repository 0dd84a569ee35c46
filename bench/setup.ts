/** Models for the benches: a backbone with random weights and a method on it. Speed and memory do not depend on what the weights are. */

import type { Device } from '../lib/device';
import { ArgumentError } from '../lib/errors';
import * as models from '../lib/models';
import * as petl from '../lib/petl';
import type { TrainingBatch } from '../lib/petl/model';
import type { Compute } from './harness';

/** Classes of the head: CIFAR-100's, as in the paper's tables of memory. */
export const classes = 100;

/**
 * Every built-in method that a model can be had with, in the order of what they take in PyTorch, from the least memory to the most (the paper's Table 2;
 * methods that it leaves out stand beside their kin). NOAH's supernet is no such method.
 */
export const tableMethods: readonly string[] = [
  'linear',
  'dtl',
  'dtlPlus',
  'lst',
  'adaptFormer',
  'adapter',
  'bitfit',
  'lora',
  'dtlPlusStar',
  'noah',
  'factTt',
  'factTk',
  'vptShallow',
  'vptDeep',
  'full',
  'ssf',
];

/** One way to train: what a row of `memory` and of `train` is about. */
export interface Setup {
  /** One of `models.vitPresets`. */
  model: string;
  method: string;
  dtype: Compute;
  batch: number;
  /** M of methods that have one; default: the method's own. */
  startBlock?: number;
  retain: models.Retain;
  prefix: 'keep' | 'recompute';
}

/** A setup in words; what is as usual goes without saying. */
export function nameOf({ method, dtype, batch, startBlock, retain, prefix }: Setup): string {
  const unusual = [
    startBlock === undefined ? '' : ` M ${startBlock}`,
    retain === 'activations' ? '' : ` ${retain}`,
    prefix === 'keep' ? '' : ` prefix ${prefix}`,
  ];
  return `${method} ${dtype} batch ${batch}${unusual.join('')}`;
}

/** Lists of which every combination is one {@link Setup}. */
export interface SetupLists {
  model: string;
  methods: readonly string[];
  dtype: readonly Compute[];
  batch: readonly number[];
  /** For DTL and DTL+; DTL+* is DTL+ with M = 1, so it keeps its own. */
  startBlock?: readonly number[];
  retain: readonly models.Retain[];
  prefix: readonly Setup['prefix'][];
}

const withStartBlock = ['dtl', 'dtlPlus'];

export function setups({ model, methods, ...lists }: SetupLists): Setup[] {
  const startBlocks = (method: string) =>
    lists.startBlock && withStartBlock.includes(method) ? lists.startBlock.map((startBlock) => ({ startBlock })) : [{}];
  return lists.dtype.flatMap((dtype) =>
    lists.batch.flatMap((batch) =>
      methods.flatMap((method) =>
        startBlocks(method).flatMap((start) =>
          lists.retain.flatMap((retain) =>
            lists.prefix.map((prefix) => ({ model, method, dtype, batch, ...start, retain, prefix })),
          ),
        ),
      ),
    ),
  );
}

/** The method of a name, put on a backbone. */
export function adapt(
  method: string,
  backbone: models.Vit,
  options: Partial<Setup> & { pool?: petl.Pool } = {},
): petl.PetlModel {
  const make = petl.methodNamed(method);
  if (!make) {
    const known = petl.methodNames().join(', ');
    throw new ArgumentError(`unknown method '${method}', known: ${known}`, { argument: 'method', got: method });
  }
  const { startBlock, pool, retain = 'activations', prefix = 'keep' } = options;
  const given = { ...(startBlock === undefined ? {} : { startBlock }), ...(pool === undefined ? {} : { pool }) };
  return make(backbone, { classes, retain, prefix, ...given });
}

/** Backbone and model of a setup; a method that trains the backbone takes its tensors over, so each setup has a backbone of its own. */
export function build(device: Device, setup: Setup): { model: petl.PetlModel; dispose(): void } {
  const backbone = models.vit(device, setup.model, { dtype: setup.dtype });
  const model = adapt(setup.method, backbone, setup);
  const dispose = (): void => {
    model.dispose();
    backbone.dispose();
  };
  return { model, dispose };
}

/** Images and labels for the steps of one setup after the other. Neighbours mostly have as many, so the last ones are kept. */
export function trainingBatches(): (batch: number, imageSize: number) => TrainingBatch {
  let last: TrainingBatch = { images: new Float32Array(0), labels: new Int32Array(0) };
  return (batch, imageSize) => {
    if (last.images.length !== pixelCount(batch, imageSize)) {
      last = { images: pixels(batch, imageSize), labels: Int32Array.from({ length: batch }, (_, i) => i % classes) };
    }
    return last;
  };
}

/** `batch` images [3, size, size] of numbers spread over [−1, 1]. */
export function pixels(batch: number, imageSize: number): Float32Array {
  const images = new Float32Array(pixelCount(batch, imageSize));
  for (let i = 0; i < images.length; i++) images[i] = ((i * 7919) % 2001) / 1000 - 1;
  return images;
}

function pixelCount(batch: number, imageSize: number): number {
  return batch * 3 * imageSize * imageSize;
}
