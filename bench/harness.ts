/** Timing, the machine's roof, tables and JSON of every bench. Medians are quoted; on a shared machine single times mean little. */

import { writeFileSync } from 'node:fs';
import os from 'node:os';
import type { Device, DeviceInfo } from '../lib/device';
import { kernels, measure } from '../lib/kernels';
import { type ComputeDtype, computeDtypes } from '../lib/models';
import type { Kernels } from '../lib/native_kernels';
import { scope } from '../lib/scope';
import { type DType, Tensor } from '../lib/tensor';

export type Compute = ComputeDtype;

/** The dtype of tokens, and that of packed weights. */
export const tokenDtype = (dtype: Compute): DType => (dtype === 'int8' ? 'bf16' : dtype);
export const weightDtype = (dtype: Compute): DType => (dtype === 'int8' ? 'i8' : dtype);

export interface Summary {
  min: number;
  median: number;
  max: number;
}

export function summarize(samples: readonly number[]): Summary {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { min: sorted[0]!, median, max: sorted.at(-1)! };
}

/** How many times `others` the `samples` are: the median over turns, in each of which the machine is one speed for both. The last turn may lack a sample. */
export function ratioInTurn(samples: readonly number[], others: readonly number[]): number {
  const turns = Math.min(samples.length, others.length);
  return summarize(Array.from({ length: turns }, (_, turn) => samples[turn]! / others[turn]!)).median;
}

/**
 * Milliseconds of one call of `body`, over samples that each last long enough to be measured. `body` queues work; a sample ends when the device has done it.
 */
export async function time(device: Device, body: () => void, { samples = 9, sampleMs = 30 } = {}): Promise<Summary> {
  const run = async (calls: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < calls; i++) body();
    await device.synchronize();
    return performance.now() - start;
  };
  await run(1);
  const once = await run(1);
  const calls = Math.max(1, Math.min(1000, Math.ceil(sampleMs / Math.max(once, 1e-3))));
  await run(calls);
  const results: number[] = [];
  for (let i = 0; i < samples; i++) results.push((await run(calls)) / calls);
  return summarize(results);
}

/** What a machine can do at best, on all threads of the device. Measured, not looked up: the best of several samples. */
export interface Roof {
  /** Products with packed weights. */
  gemmGflops: Record<Compute, number>;
  /** The device's copy: bytes read and written together, and their rate. Caches make it depend on the bytes; sizes go up. */
  copy: { bytes: number; gbps: number }[];
}

/** Rows, outputs and inputs of the products: a large square, and fc1 of a ViT-B/16 with 16 images. */
const products = [
  [2048, 2048, 2048],
  [3152, 3072, 768],
] as const;

/** 256 KiB, 512 KiB … 256 MiB. */
const copies = Array.from({ length: 11 }, (_, i) => 2 ** (18 + i));

/** Takes some seconds. @returns undefined when it was stopped */
export async function measureRoof(device: Device, signal?: AbortSignal): Promise<Roof | undefined> {
  const roof: Roof = { gemmGflops: { f32: 0, bf16: 0, int8: 0 }, copy: [] };
  const { backend } = device.info();
  // Int8 weights are for the CPU.
  for (const dtype of computeDtypes.filter((each) => backend === 'cpu' || each !== 'int8')) {
    for (const shape of products) {
      if (signal?.aborted) return undefined;
      roof.gemmGflops[dtype] = Math.max(roof.gemmGflops[dtype], await gemmGflops(device, dtype, shape));
    }
  }
  for (const bytes of copies) {
    if (signal?.aborted) return undefined;
    roof.copy.push({ bytes, gbps: await copyGbps(device, bytes) });
  }
  return roof;
}

function gemmGflops(device: Device, dtype: Compute, [rows, outputs, inputs]: (typeof products)[number]) {
  return scope(async () => {
    const x = numbers(device, [rows, inputs], tokenDtype(dtype));
    const weight = Tensor.empty(device, [outputs, inputs], { dtype: weightDtype(dtype), layout: 'packed' });
    kernels.linearPack({ weight: numbers(device, [outputs, inputs], tokenDtype(dtype)), out: weight });
    const call = (): void => scope(() => void kernels.linearForward({ x, weight }));
    const { min } = await time(device, call, { samples: 5, sampleMs: 60 });
    return (2 * rows * outputs * inputs) / min / 1e6;
  });
}

function copyGbps(device: Device, bytes: number): Promise<number> {
  return scope(async () => {
    const [from, to] = [numbers(device, [bytes / 8], 'f32'), numbers(device, [bytes / 8], 'f32')];
    const { min } = await time(device, () => to.copyFrom(from), { sampleMs: 15 });
    return bytes / min / 1e6;
  });
}

/** The better of two measurements: what slows a machine down for a while is not its roof. */
export function higher(a: Roof, b: Roof): Roof {
  return {
    gemmGflops: {
      f32: Math.max(a.gemmGflops.f32, b.gemmGflops.f32),
      bf16: Math.max(a.gemmGflops.bf16, b.gemmGflops.bf16),
      int8: Math.max(a.gemmGflops.int8, b.gemmGflops.int8),
    },
    copy: a.copy.map(({ bytes, gbps }, i) => ({ bytes, gbps: Math.max(gbps, b.copy[i]!.gbps) })),
  };
}

/** The rate of moving a working set of `bytes`: between two sizes on a line over log(bytes), beyond the last ones theirs. */
export function copyGbpsAt({ copy }: Roof, bytes: number): number {
  const next = copy.findIndex((point) => point.bytes >= bytes);
  if (next <= 0) return copy.at(next)!.gbps;
  const [low, high] = [copy[next - 1]!, copy[next]!];
  const share = Math.log(bytes / low.bytes) / Math.log(high.bytes / low.bytes);
  return low.gbps + share * (high.gbps - low.gbps);
}

/** Varied numbers in [−1, 1), or bytes: kernels with exp must not meet a special case only. */
function numbers(device: Device, shape: readonly number[], dtype: DType, seed = 1): Tensor {
  if (dtype === 'u8') {
    const bytes = new Uint8Array(shape.reduce((product, length) => product * length, 1));
    for (let i = 0; i < bytes.length; i++) bytes[i] = 37 * i + seed;
    return Tensor.from(device, bytes, shape, { dtype });
  }
  const out = Tensor.empty(device, shape, { dtype });
  kernels.randomUniform({ out, low: -1, seed });
  return out;
}

/** Shapes that a kernel's bench case is made for: a model at a batch size. */
export interface BenchShape {
  device: Device;
  dtype: Compute;
  batch: number;
  tokens: number;
  width: number;
  heads: number;
  hidden: number;
  grid: [number, number];
  /** A tensor in the dtype of tokens unless said otherwise: of numbers in [−1, 1), or of zeros in i32. */
  tensor(shape: readonly number[], dtype?: DType): Tensor;
}

export interface KernelBench {
  kernel: keyof Kernels;
  /** What is special about the case, e.g. "fc1 + GELU". */
  label?: string;
  direction: 'forward' | 'backward' | 'update';
  /** False where no argument depends on the batch: such a case is measured once. */
  perBatch?: false;
  /** Whether there is such a call in int8, too. */
  int8?: true;
  /** The only backend that has such a call. Default: all have it. */
  backend?: DeviceInfo['backend'];
  args(shape: BenchShape): Record<string, unknown>;
  flags?: { save?: boolean };
}

/** What one case took. */
export interface KernelTiming {
  kernel: string;
  label: string;
  shape: string;
  dtype: Compute;
  /** Null for a case that does not depend on it. */
  batch: number | null;
  direction: string;
  /** Median. */
  ms: number;
  /** That must move: read once, written once. */
  bytes: number;
  /** Of all tensors together, of which a call may touch a window only: what a cache would have to hold. */
  workingSetBytes: number;
  flops: number;
}

export interface KernelRow extends KernelTiming {
  /** Of the nearer roof: time that the FLOPs or the bytes take at best, over the time taken. */
  fractionOfPeak: number;
  roof: 'flops' | 'bytes';
}

export function timeKernel(bench: KernelBench, shape: Omit<BenchShape, 'tensor'>): Promise<KernelTiming> {
  return scope(async () => {
    const { device, dtype } = shape;
    let seed = 0;
    const tensor = (lengths: readonly number[], type: DType = tokenDtype(dtype)): Tensor =>
      type === 'i32' ? Tensor.zeros(device, lengths, { dtype: type }) : numbers(device, lengths, type, ++seed);
    const args = bench.args({ ...shape, tensor });
    const run = kernels[bench.kernel] as (args: object, flags?: object) => Record<string, Tensor>;
    const call = (): Record<string, Tensor> => run(args, bench.flags);
    const moved = measure(bench.kernel, args, bench.flags);
    const tensorBytes = scope(() => bytesOf({ ...args, ...call() }));
    const { median } = await time(device, () => scope(() => void call()));
    return {
      kernel: bench.kernel,
      label: bench.label ?? '',
      shape: `N=${shape.tokens} d=${shape.width}`,
      dtype,
      batch: bench.perBatch === false ? null : shape.batch,
      direction: bench.direction,
      ms: median,
      ...moved,
      workingSetBytes: Math.min(tensorBytes, moved.bytes),
    };
  });
}

function bytesOf(values: Record<string, unknown>): number {
  const tensors = new Set(Object.values(values).flat());
  return [...tensors].reduce((sum: number, value) => sum + (value instanceof Tensor ? value.bytes : 0), 0);
}

export function besideRoof(timing: KernelTiming, roof: Roof): KernelRow {
  const flopMs = timing.flops / (roof.gemmGflops[timing.dtype] * 1e6);
  const byteMs = timing.bytes / (copyGbpsAt(roof, timing.workingSetBytes) * 1e6);
  return {
    ...timing,
    fractionOfPeak: Math.max(flopMs, byteMs) / timing.ms,
    roof: flopMs > byteMs ? 'flops' : 'bytes',
  };
}

/** Of two vectors: 1 when they point the same way. */
export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! ** 2;
    bb += b[i]! ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}

/** The machine and software that a result belongs to. */
export function host(device: Device): Record<string, unknown> {
  const info = device.info();
  return {
    cpu: info.backend === 'cpu' ? info.processor : os.cpus()[0]?.model,
    ...(info.backend === 'cpu'
      ? { isa: info.simd, threads: info.threads, cores: info.cores }
      : {
          gpu: info.processor,
          multiprocessors: info.multiprocessors,
          computeCapability: info.computeCapability,
          tf32: info.tf32,
        }),
    gemm: info.gemm,
    memoryBytes: os.totalmem(),
    device: device.name,
    platform: `${os.platform()}-${os.arch()}`,
    node: process.version,
    load: os.loadavg()[0],
  };
}

export interface Report {
  benchmark: string;
  version: string;
  host: Record<string, unknown>;
  rows: object[];
}

/** Writes a report to a file, or to standard output for '-'. */
export function writeReport(report: Report, target: string): void {
  const text = `${JSON.stringify(report, null, 2)}\n`;
  if (target === '-') process.stdout.write(text);
  else writeFileSync(target, text);
}

export interface Column<Row> {
  title: string;
  value(row: Row): string;
  align?: 'left' | 'right';
}

/** A table that is also valid Markdown. */
export function table<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const cells = rows.map((row) => columns.map(({ value }) => value(row)));
  const widths = columns.map(({ title }, i) => Math.max(title.length, 3, ...cells.map((line) => line[i]!.length)));
  const pad = (text: string, i: number): string =>
    columns[i]!.align === 'left' ? text.padEnd(widths[i]!) : text.padStart(widths[i]!);
  const line = (values: readonly string[]): string => `| ${values.map(pad).join(' | ')} |`;
  const rule = `| ${columns.map(({ align }, i) => (align === 'left' ? '-'.repeat(widths[i]!) : `${'-'.repeat(widths[i]! - 1)}:`)).join(' | ')} |`;
  return [line(columns.map(({ title }) => title)), rule, ...cells.map(line)].join('\n');
}
