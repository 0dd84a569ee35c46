/** Real training steps: seconds, images per second, and the peak of memory. */

import { Device } from '../lib/device';
import { adamW } from '../lib/optim';
import { traced } from '../lib/trace';
import type { Control, Place, Result, Tracing } from './control';
import { host, type Summary, summarize } from './harness';
import { type MemoryRow, memoryRow } from './memory';
import { build, nameOf, type Setup, type SetupLists, setups, trainingBatches } from './setup';

export interface TrainOptions extends SetupLists, Control, Place, Tracing {
  /** Timed steps of each setup, after one that warms up. */
  steps: number;
}

export interface TrainRow extends MemoryRow {
  /** Median. */
  secondsPerStep: number;
  imagesPerSecond: Summary;
  /**
   * Memory that the process holds in RAM after the last step: the device's, and what its figures leave out, such as Node, buffers of the GEMM
   * library and the images. A row begins with what the rows before it have left behind in the heap; one row alone begins with Node itself.
   */
  residentBytes: number;
  runs: number;
}

/** Forward, backward and AdamW on images that are in memory: reading and decoding files is not part of it. */
export async function train(options: TrainOptions): Promise<Result<TrainRow>> {
  const list = setups(options);
  const rows: TrainRow[] = [];
  const batches = trainingBatches();
  const total = list.length * (options.steps + 1);
  let done = 0;
  const before = (what: string): void => options.onProgress?.(done++, total, what);
  for (const setup of list) {
    if (options.signal?.aborted) break;
    const row = await run(setup, batches, options, before);
    if (row) rows.push(row);
  }
  options.onProgress?.(done, total, 'done');
  await using device = await Device.open(options.device);
  return { host: host(device), rows };
}

async function run(
  setup: Setup,
  batches: ReturnType<typeof trainingBatches>,
  { steps, signal, onTrace, device: name }: TrainOptions,
  before: (what: string) => void,
): Promise<TrainRow | undefined> {
  await using device = await Device.open(name);
  const { model, dispose } = build(device, setup);
  try {
    using optimizer = adamW(model.parameters());
    const batch = batches(setup.batch, model.backbone.config.imageSize);
    const what = nameOf(setup);
    const seconds: number[] = [];
    device.resetPeak();
    for (let step = 0; step <= steps && !signal?.aborted; step++) {
      before(what);
      const start = performance.now();
      await model.step(batch, optimizer);
      await device.synchronize();
      if (step > 0) seconds.push((performance.now() - start) / 1000);
    }
    if (seconds.length === 0) return undefined;
    const row = {
      ...memoryRow(setup, model, device),
      secondsPerStep: summarize(seconds).median,
      imagesPerSecond: summarize(seconds.map((value) => setup.batch / value)),
      residentBytes: process.memoryUsage.rss(),
      runs: seconds.length,
    };
    if (onTrace && !signal?.aborted) await traced(device, what, () => model.step(batch, optimizer), onTrace);
    return row;
  } finally {
    dispose();
  }
}
