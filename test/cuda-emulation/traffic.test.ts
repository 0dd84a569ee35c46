/**
 * What kernels move, on the check build: at most 1.10 times the bytes of their field lists, at the shapes of a ViT-B/16. Asserted is each byte once a launch
 * and direction, summed over a call's launches: what a launch looks at again may be in a cache, what the next one reads has been in memory. The table also
 * shows every access ('raw'), for what a block reads again.
 */

import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { KernelBench } from '../../bench/harness';
import { kernelBenches } from '../../bench/kernels';
import type { Device } from '../../lib/device';
import { kernels, measure } from '../../lib/kernels';
import { scope } from '../../lib/scope';
import { type DType, Tensor } from '../../lib/tensor';
import { openVariant } from '../each_target';

interface Counted {
  read: number;
  written: number;
  rawRead: number;
  rawWritten: number;
}
const counter = require(path.resolve(process.env.SIDETUNE_ADDON!, '../traffic.node')) as {
  traffic(part: string): Counted;
  reset(): void;
};

const MOST = 1.1;
const model = { tokens: 197, width: 768, heads: 12, hidden: 3072, grid: [14, 14] as [number, number] };
const table: Record<string, string | number>[] = [];
let device: Device;
beforeAll(async () => {
  device = await openVariant('sms=132 shared=227 capability=9.0');
});
afterAll(async () => {
  await device.close();
  console.table(table);
});

/** Bytes of arguments that a kernel writes only, though it takes them as they are. */
const unread: Partial<Record<string, (args: Record<string, unknown>) => number>> = {
  lowRankCombineForward: ({ h }) => (h as Tensor).bytes,
};

/** A call's traffic through the kernels with `part` in their names, over `bytes` or those of the field list. */
async function moved(bench: KernelBench, dtype: 'f32' | 'bf16', batch: number, part = '', bytes?: number) {
  const counted = await scope(async () => {
    const tensor = (shape: readonly number[], type: DType = dtype): Tensor =>
      Tensor.zeros(device, shape, { dtype: type });
    const args = bench.args({ ...model, device, dtype, batch, tensor });
    await device.synchronize();
    counter.reset();
    (kernels[bench.kernel] as (args: object, flags?: object) => void)(args, bench.flags);
    await device.synchronize();
    bytes ??= measure(bench.kernel, args, bench.flags).bytes - (unread[bench.kernel]?.(args) ?? 0);
    return counter.traffic(part);
  });
  const ratio = (counted.read + counted.written) / bytes!;
  table.push({
    kernel: `${bench.kernel}${part && ` (${part})`} ${bench.label ?? ''}`,
    dtype,
    batch,
    'fields (bytes)': bytes!,
    'moved / fields': ratio.toFixed(3),
    'raw / fields': ((counted.rawRead + counted.rawWritten) / bytes!).toFixed(3),
  });
  return ratio;
}

const named = (benches: readonly KernelBench[]): [string, KernelBench][] =>
  benches.map((bench) => [`${bench.kernel} ${bench.label ?? ''}`.trim(), bench]);

describe.each(['f32', 'bf16'] as const)('in %s', (dtype) => {
  it.each(named([...kernelBenches.low_rank!, ...kernelBenches.side_inject!, ...kernelBenches.layer_norm!]))(
    '%s',
    async (_, bench) => {
      expect(await moved(bench, dtype, 4)).toBeLessThanOrEqual(MOST);
    },
  );
  it.each(named([...kernelBenches.gelu!, ...kernelBenches.dropout!, ...kernelBenches.gate!]))(
    '%s',
    async (_, bench) => {
      expect(await moved(bench, dtype, 1)).toBeLessThanOrEqual(MOST);
    },
  );

  // Scores are no field: a row of them is read and a row of p written, and in backward two of each.
  const whole = kernelBenches.attention!.filter(({ kernel }) => kernel.startsWith('attention'));
  it.each(named(whole))('%s, batched softmax', async (_, bench) => {
    const [batch, { heads, tokens }] = [1, model];
    const rows = batch * heads * tokens;
    const matrices = bench.direction === 'forward' ? 1 : 2;
    const bytes = rows * (matrices * tokens * (4 + (dtype === 'bf16' ? 2 : 4)) + 4);
    const batched: KernelBench = {
      ...bench,
      args: (shape) => ({ ...bench.args(shape), algorithm: 'batched' }),
      flags: { save: true },
    };
    expect(await moved(batched, dtype, batch, 'softmax', bytes)).toBeLessThanOrEqual(MOST);
  });
});

// How rows fall into groups depends on their number; rows of bf16 weigh less beside the sums.
describe('batch 16 in bf16', () => {
  it.each(named(kernelBenches.low_rank!))('%s', async (_, bench) => {
    expect(await moved(bench, 'bf16', 16)).toBeLessThanOrEqual(MOST);
  });
});

describe('in f32', () => {
  // 48 ranks, whose factors take most of a multiprocessor's shared memory.
  it.each([1, 12])('lowRankCombineBackward of 24 blocks, batch %i', async (batch) => {
    const bench: KernelBench = {
      kernel: 'lowRankCombineBackward',
      label: '24 blocks',
      direction: 'backward',
      args: ({ tensor, batch, tokens, width }) => {
        const list = (shape: number[]) => Array.from({ length: 24 }, () => tensor(shape));
        const [rows, matrices] = [() => list([batch, tokens, 2]), () => list([2, width])];
        return {
          gradH: tensor([batch, tokens, width]),
          ...{ u: rows(), c: matrices(), gradU: rows(), gradC: matrices() },
        };
      },
    };
    expect(await moved(bench, 'f32', batch)).toBeLessThanOrEqual(MOST);
  });

  it.each(named(kernelBenches.cross_entropy!))('%s', async (_, bench) => {
    expect(await moved(bench, 'f32', 64)).toBeLessThanOrEqual(MOST);
  });

  it.each(named(kernelBenches.slice!))('%s', async (_, bench) => {
    expect(await moved(bench, 'f32', 1)).toBeLessThanOrEqual(MOST);
  });

  const lists: [string, number[][]][] = [
    ['one matrix', [[768, 768]]],
    ['12 side layers and a head', [...Array.from({ length: 24 }, () => [768, 2]), [100, 768], [100]]],
  ];
  it.each(lists)('adamwUpdate of %s', async (label, shapes) => {
    const bench: KernelBench = {
      kernel: 'adamwUpdate',
      label,
      direction: 'update',
      args: ({ tensor }) => {
        const list = () => shapes.map((shape) => tensor(shape));
        return {
          parameters: list(),
          firstMoments: list(),
          secondMoments: list(),
          gradients: list(),
          lr: 1e-3,
          step: 10,
        };
      },
    };
    expect(await moved(bench, 'f32', 1)).toBeLessThanOrEqual(MOST);
  });
});
