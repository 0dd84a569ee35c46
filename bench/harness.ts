/** Timing, the machine's roof, tables and JSON of every bench. Medians are quoted; on a shared machine single times mean little. */

import { writeFileSync } from 'node:fs';
import os from 'node:os';
import type { Device } from '../lib/device';
import { kernels, measure } from '../lib/kernels';
import type { Kernels } from '../lib/native_kernels';
import { scope } from '../lib/scope';
import { type DType, Tensor } from '../lib/tensor';

export type Compute = 'f32' | 'bf16';

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

/** What a machine can do at best: the rate of a large product with packed weights, and of copying memory. Measured, not looked up. */
export interface Roof {
  gemmGflops: Record<Compute, number>;
  copyGbps: number;
}

export async function measureRoof(device: Device): Promise<Roof> {
  const gemmGflops = {} as Roof['gemmGflops'];
  for (const dtype of ['f32', 'bf16'] as const) {
    const [rows, width] = [2048, 2048];
    const x = Tensor.zeros(device, [rows, width], { dtype });
    const plain = Tensor.zeros(device, [width, width], { dtype });
    const weight = Tensor.empty(device, [width, width], { dtype, layout: 'packed' });
    kernels.linearPack({ weight: plain, out: weight });
    const ms = await time(device, () => scope(() => void kernels.linearForward({ x, weight })), {
      samples: 5,
      sampleMs: 100,
    });
    gemmGflops[dtype] = (2 * rows * width * width) / ms.min / 1e6;
    for (const tensor of [x, plain, weight]) tensor.dispose();
  }
  const from = Tensor.zeros(device, [1 << 26], { dtype: 'u8' });
  const to = Tensor.zeros(device, [1 << 26], { dtype: 'u8' });
  const ms = await time(device, () => to.copyFrom(from), { samples: 5, sampleMs: 50 });
  from.dispose();
  to.dispose();
  return { gemmGflops, copyGbps: (2 * 2 ** 26) / ms.min / 1e6 };
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
  /** A tensor of numbers around 0, in the compute dtype unless said otherwise. */
  tensor(shape: readonly number[], dtype?: DType): Tensor;
}

export interface KernelBench {
  kernel: keyof Kernels;
  /** What is special about the case, e.g. "fc1 + GELU". */
  label?: string;
  direction: 'forward' | 'backward' | 'update';
  args(shape: BenchShape): Record<string, unknown>;
  flags?: { save?: boolean };
}

export interface KernelRow {
  kernel: string;
  label: string;
  shape: string;
  dtype: Compute;
  direction: string;
  ms: number;
  bytes: number;
  flops: number;
  /** Of the nearer roof: time that the FLOPs or the bytes take at best, over the time taken. */
  fractionOfPeak: number;
  roof: 'flops' | 'bytes';
}

export async function benchKernel(
  bench: KernelBench,
  shape: Omit<BenchShape, 'tensor'>,
  roof: Roof,
): Promise<KernelRow> {
  const { device, dtype } = shape;
  const made: Tensor[] = [];
  const tensor = (lengths: readonly number[], type: DType = dtype): Tensor => {
    const size = lengths.reduce((product, length) => product * length, 1);
    // Small varied numbers: kernels with exp must not meet a special case only.
    const data =
      type === 'i32'
        ? new Int32Array(size)
        : Float32Array.from({ length: size }, (_, i) => ((i * 7919) % 2001) / 1000 - 1);
    const fresh = Tensor.from(device, data, lengths, { dtype: type });
    made.push(fresh);
    return fresh;
  };
  const args = bench.args({ ...shape, tensor });
  const call = kernels[bench.kernel] as (args: object, flags?: object) => Record<string, Tensor>;
  try {
    const { bytes, flops } = measure(bench.kernel, args);
    const { median } = await time(device, () => scope(() => void call(args, bench.flags)));
    const flopMs = flops / (roof.gemmGflops[dtype] * 1e6);
    const byteMs = bytes / (roof.copyGbps * 1e6);
    return {
      kernel: bench.kernel,
      label: bench.label ?? '',
      shape: `B=${shape.batch} N=${shape.tokens} d=${shape.width}`,
      dtype,
      direction: bench.direction,
      ms: median,
      bytes,
      flops,
      fractionOfPeak: Math.max(flopMs, byteMs) / median,
      roof: flopMs > byteMs ? 'flops' : 'bytes',
    };
  } finally {
    for (const item of made) item.dispose();
  }
}

/** The machine and software that a result belongs to. */
export function host(device: Device): Record<string, unknown> {
  const info = device.info();
  return {
    cpu: info.processor,
    isa: info.simd,
    gemm: info.gemm,
    threads: info.threads,
    cores: info.cores,
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
