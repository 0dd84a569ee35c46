/** Memory of one training step, counted by a planning device: nothing is computed, and the figures are those of a real step. */

import { type BytesByKind, Device, type Kind } from '../lib/device';
import type * as models from '../lib/models';
import { adamW } from '../lib/optim';
import type { Control, Place, Result } from './control';
import { type Compute, host } from './harness';
import { build, type Setup, type SetupLists, setups, trainingBatches } from './setup';

/** What lasts, what a step adds, what it borrows. */
export const kinds: readonly Kind[] = ['weights', 'side', 'activations', 'gradients', 'optimizer', 'workspace', 'data'];

export interface MemoryRow {
  model: string;
  method: string;
  batch: number;
  dtype: Compute;
  device: string;
  /** M; null for methods that have none. */
  startBlock: number | null;
  retain: models.Retain;
  prefix: Setup['prefix'];
  peakBytes: number;
  /** At the peak; they add up to `peakBytes`. */
  bytesByKind: BytesByKind;
  /** Trained numbers, the head excluded. */
  parameters: number;
}

/** The peak of forward, backward and AdamW's update, weights included. */
export async function memory(options: SetupLists & Control & Place): Promise<Result<MemoryRow>> {
  const { signal, onProgress } = options;
  const list = setups(options);
  const rows: MemoryRow[] = [];
  const batches = trainingBatches();
  for (const setup of list) {
    if (signal?.aborted) break;
    onProgress?.(rows.length, list.length, `${setup.method} ${setup.dtype} batch ${setup.batch}`);
    rows.push(await plan(setup, batches, options.device));
  }
  onProgress?.(rows.length, list.length, 'done');
  await using device = await Device.open(options.device, { plan: true });
  return { host: host(device), rows };
}

async function plan(setup: Setup, batches: ReturnType<typeof trainingBatches>, name?: string): Promise<MemoryRow> {
  await using device = await Device.open(name, { plan: true });
  const { model, dispose } = build(device, setup);
  try {
    using optimizer = adamW(model.parameters());
    const batch = batches(setup.batch, model.backbone.config.imageSize);
    // From the second step on everything that lasts is there, such as h.
    await model.step(batch, optimizer);
    device.resetPeak();
    await model.step(batch, optimizer);
    return memoryRow(setup, model, device);
  } finally {
    dispose();
  }
}

/** The row of a setup whose step has just run. */
export function memoryRow(setup: Setup, model: ReturnType<typeof build>['model'], device: Device): MemoryRow {
  const { peakBytes, atPeak } = device.memory();
  const startBlock = model.methodOptions.startBlock;
  return {
    model: setup.model,
    method: setup.method,
    batch: setup.batch,
    dtype: setup.dtype,
    device: device.name,
    startBlock: typeof startBlock === 'number' ? startBlock : null,
    retain: setup.retain,
    prefix: setup.prefix,
    peakBytes,
    bytesByKind: atPeak,
    parameters: model.parameterCount,
  };
}
