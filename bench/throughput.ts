/** Inference throughput of methods beside each other: images per second. */

import { Device } from '../lib/device';
import { DeviceError } from '../lib/errors';
import * as models from '../lib/models';
import type { PetlModel } from '../lib/petl';
import { Tensor } from '../lib/tensor';
import { traced } from '../lib/trace';
import type { Control, Place, Result, Tracing } from './control';
import { type Compute, cosine, host, ratioInTurn, type Summary, summarize } from './harness';
import { adapt, pixels } from './setup';

export interface ThroughputOptions extends Control, Place, Tracing {
  /** One of `models.vitPresets`. */
  model: string;
  /** 'full' stands for any fully fine-tuned model: the plain backbone and a head. */
  methods: readonly string[];
  batch: readonly number[];
  dtype: readonly Compute[];
  /** Timed samples of each method; they are taken in turn, A B C A B C …, so that a machine that changes its speed changes it for all. */
  samples: number;
}

export interface ThroughputRow {
  model: string;
  method: string;
  batch: number;
  dtype: Compute;
  device: string;
  imagesPerSecond: Summary;
  /** Ratio of medians to 'full' at the same batch and dtype; null when 'full' is not among the methods. */
  relativeToFull: number | null;
  /** Cosine similarity of the logits of an image to those in f32; null in f32. The weights are random: real ones tell more. */
  cosineToF32: number | null;
  runs: number;
}

/** A sample repeats the pass until it lasts this long. */
const sampleMs = 100;

class Contender {
  readonly imagesPerSecond: number[] = [];
  /** Of the first image. */
  logits: readonly number[] = [];
  #passes = 1;

  constructor(
    readonly method: string,
    readonly model: PetlModel,
    private readonly images: Tensor,
  ) {}

  async #ms(passes: number): Promise<number> {
    const { device } = this.model;
    const start = performance.now();
    for (let i = 0; i < passes; i++) this.model.forward(this.images).dispose();
    await device.synchronize();
    return performance.now() - start;
  }

  /** Runs once to touch all memory, and refuses to time a model that computes nonsense. */
  async warmUp(): Promise<void> {
    const logits = this.model.forward(this.images);
    const numbers = [...(await logits.read())];
    logits.dispose();
    this.logits = numbers.slice(0, numbers.length / this.images.shape[0]!);
    if (!numbers.every(Number.isFinite))
      throw new DeviceError(`throughput: '${this.method}' gives logits that are not finite`);
    this.#passes = Math.max(1, Math.ceil(sampleMs / (await this.#ms(1))));
  }

  async sample(): Promise<void> {
    const ms = await this.#ms(this.#passes);
    this.imagesPerSecond.push((this.images.shape[0]! * this.#passes * 1000) / ms);
  }

  /** One pass beside the timed ones. */
  async trace(label: string, onTrace: NonNullable<Tracing['onTrace']>): Promise<void> {
    await traced(this.model.device, label, () => this.model.forward(this.images).dispose(), onTrace);
  }
}

export async function throughput(options: ThroughputOptions): Promise<Result<ThroughputRow>> {
  const { model, methods, samples, signal, onProgress, onTrace } = options;
  await using device = await Device.open(options.device);
  const rows: ThroughputRow[] = [];
  const rounds = samples + 1; // one to warm up
  const total = options.dtype.length * options.batch.length * methods.length * rounds;
  let done = 0;
  const exact = options.dtype.some((dtype) => dtype !== 'f32') ? await logitsInF32(device, model, methods) : undefined;
  for (const dtype of options.dtype) {
    if (signal?.aborted) break;
    using backbone = models.vit(device, model, { dtype });
    const adapted = adaptAll(methods, backbone);
    for (const batch of options.batch) {
      const { imageSize } = backbone.config;
      using images = Tensor.from(device, pixels(batch, imageSize), [batch, 3, imageSize, imageSize], { kind: 'data' });
      const contenders = adapted.map((one) => new Contender(one.method, one.model, images));
      for (let round = 0; round < rounds; round++) {
        for (const contender of contenders) {
          if (signal?.aborted) break;
          onProgress?.(done++, total, `${dtype} batch ${batch}`);
          await (round === 0 ? contender.warmUp() : contender.sample());
        }
      }
      for (const contender of onTrace ? contenders : []) {
        if (!signal?.aborted) await contender.trace(`${contender.method} ${dtype} batch ${batch}`, onTrace!);
      }
      rows.push(...rowsOf(contenders, { model, batch, dtype, device: device.name }, exact));
    }
    for (const one of adapted) one.model.dispose();
  }
  onProgress?.(done, total, 'done');
  return { host: host(device), rows };
}

function adaptAll(methods: readonly string[], backbone: models.Vit): { method: string; model: PetlModel }[] {
  return methods.map((method) => ({ method, model: adapt(method === 'full' ? 'linear' : method, backbone) }));
}

/** An image's logits by method. */
async function logitsInF32(
  device: Device,
  preset: string,
  methods: readonly string[],
): Promise<Map<string, readonly number[]>> {
  using backbone = models.vit(device, preset, { dtype: 'f32' });
  const { imageSize } = backbone.config;
  const logits = new Map<string, readonly number[]>();
  for (const { method, model } of adaptAll(methods, backbone)) {
    using result = model.forward(pixels(1, imageSize));
    logits.set(method, [...(await result.read())]);
    model.dispose();
  }
  return logits;
}

function rowsOf(
  contenders: readonly Contender[],
  common: Pick<ThroughputRow, 'model' | 'batch' | 'dtype' | 'device'>,
  exact: ReadonlyMap<string, readonly number[]> | undefined,
): ThroughputRow[] {
  const measured = contenders
    .filter(({ imagesPerSecond }) => imagesPerSecond.length > 0)
    .map(({ method, imagesPerSecond, logits }) => ({
      method,
      cosineToF32: common.dtype === 'f32' ? null : cosine(logits, exact!.get(method)!),
      imagesPerSecond,
    }));
  const full = measured.find(({ method }) => method === 'full');
  return measured.map(({ method, imagesPerSecond, cosineToF32 }) => ({
    model: common.model,
    method,
    batch: common.batch,
    dtype: common.dtype,
    device: common.device,
    imagesPerSecond: summarize(imagesPerSecond),
    relativeToFull: full ? ratioInTurn(imagesPerSecond, full.imagesPerSecond) : null,
    cosineToF32,
    runs: imagesPerSecond.length,
  }));
}
