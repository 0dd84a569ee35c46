/** Every kernel has its bench cases, and each case is one that the kernel accepts. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  besideRoof,
  type Compute,
  copyGbpsAt,
  higher,
  type KernelBench,
  type KernelTiming,
  measureRoof,
  type Roof,
  timeKernel,
} from '../../bench/harness';
import { kernelBenches, kernels } from '../../bench/kernels';
import { Device } from '../../lib/device';
import { ArgumentError } from '../../lib/errors';

const root = resolve(__dirname, '../..');
const lines = [...readFileSync(join(root, 'native/kernels.def'), 'utf8').matchAll(/^KERNEL\((\w+), (\w+)\)/gm)];
const families = [...new Set(lines.map(([, family]) => family!))];
/** LayerNormForward → layerNormForward */
const kernelsOf = (family: string): string[] =>
  lines.filter((line) => line[1] === family).map(([, , name]) => name!.charAt(0).toLowerCase() + name!.slice(1));

describe('the index', () => {
  test('has the families of native/kernels.def, in their order', () => {
    expect(Object.keys(kernelBenches)).toEqual(families);
  });

  test('has every file of bench/kernels', () => {
    expect(readdirSync(join(root, 'bench/kernels')).sort()).toEqual(families.map((family) => `${family}.ts`).sort());
  });

  test.each(families)('%s: there are cases of each of its kernels, and of no other', (family) => {
    const names = kernelBenches[family]!.map(({ kernel }) => kernel);
    expect([...new Set<string>(names)].sort()).toEqual(kernelsOf(family).sort());
  });

  test('a direction is what the name of the kernel says', () => {
    for (const { kernel, direction } of Object.values(kernelBenches).flat()) {
      const said = /(Forward|Backward)$/.exec(kernel)?.[1];
      if (said) expect([kernel, direction]).toEqual([kernel, said.toLowerCase()]);
    }
  });

  test('the cases of a family can be told apart', () => {
    const names = Object.values(kernelBenches).flatMap((list) =>
      list.map(({ kernel, label = '' }) => `${kernel} ${label}`),
    );
    expect(names).toHaveLength(new Set(names).size);
  });
});

const cases = Object.values(kernelBenches)
  .flat()
  .map((bench): [string, KernelBench] => [`${bench.kernel} ${bench.label ?? ''}`, bench]);

const timed = (device: Device, bench: KernelBench, dtype: Compute, batch: number): Promise<KernelTiming> =>
  timeKernel(bench, { device, dtype, batch, tokens: 17, width: 32, heads: 2, hidden: 64, grid: [4, 4] });

test.each(cases)('%s: runs, and what it moves is complete', async (_, bench) => {
  await using device = await Device.open(bench.backend === 'cuda' ? 'cuda-emulated' : 'cpu', { plan: true });
  for (const dtype of ['f32', 'bf16'] as const) {
    const [one, two] = [await timed(device, bench, dtype, 1), await timed(device, bench, dtype, 2)];
    const batch = bench.perBatch === false ? null : 1;
    expect(one).toMatchObject({ kernel: bench.kernel, dtype, direction: bench.direction, batch });
    expect(one.bytes).toBeGreaterThan(0);
    expect(one.flops).toBeGreaterThanOrEqual(0);
    expect(one.workingSetBytes).toBeGreaterThan(0);
    expect(one.workingSetBytes).toBeLessThanOrEqual(one.bytes);
    if (batch === null) expect(two.bytes).toBe(one.bytes);
    else expect(two.bytes).toBeGreaterThan(one.bytes);
  }
  expect(device.memory().blocks).toBe(0);
});

test('what backward needs is counted where it is saved, and there alone', async () => {
  await using device = await Device.open('cpu', { plan: true });
  const bytes = async (label: string): Promise<number> => {
    const bench = kernelBenches.linear!.find((one) => one.label === label)!;
    return (await timed(device, bench, 'f32', 2)).bytes;
  };
  const saved = 2 * 17 * 64 * 4; // what GELU was given: B N hidden numbers
  expect((await bytes('fc1 + GELU, saved for backward')) - (await bytes('fc1 + GELU'))).toBe(saved);
});

describe('the roof', () => {
  const copy = [
    { bytes: 1 << 20, gbps: 80 },
    { bytes: 1 << 22, gbps: 40 },
  ];
  const roof: Roof = { gemmGflops: { f32: 100, bf16: 200, int8: 1000 }, copy };

  test('of copying is the one at the size of the working set', () => {
    const sizes = [1, 1 << 20, 1 << 21, 1 << 22, 1 << 30];
    expect(sizes.map((bytes) => copyGbpsAt(roof, bytes))).toEqual([80, 80, 60, 40, 40]);
  });

  test('that is nearer counts', () => {
    const timing = { kernel: '', label: '', shape: '', dtype: 'bf16' as const, batch: 1, direction: 'forward' };
    const size = { bytes: 4e7, workingSetBytes: 1 << 22, ms: 2 }; // 1 ms at 40 GB/s
    expect(besideRoof({ ...timing, ...size, flops: 1e8 }, roof)).toMatchObject({ roof: 'bytes', fractionOfPeak: 0.5 });
    expect(besideRoof({ ...timing, ...size, flops: 4e8 }, roof)).toMatchObject({ roof: 'flops', fractionOfPeak: 1 });
  });

  test('of two measurements is the higher one', () => {
    const other: Roof = {
      gemmGflops: { f32: 120, bf16: 150, int8: 1000 },
      copy: [copy[0]!, { bytes: 1 << 22, gbps: 50 }],
    };
    expect(higher(roof, other)).toEqual({ gemmGflops: { f32: 120, bf16: 200, int8: 1000 }, copy: other.copy });
  });

  test('is measured for all dtypes and for sizes that go up', async () => {
    await using device = await Device.open('cpu', { plan: true });
    const measured = (await measureRoof(device))!;
    expect(measured.gemmGflops).toEqual({
      f32: expect.any(Number),
      bf16: expect.any(Number),
      int8: expect.any(Number),
    });
    const sizes = measured.copy.map(({ bytes }) => bytes);
    expect([sizes[0], sizes.at(-1)]).toEqual([2 ** 18, 2 ** 28]);
    expect(sizes).toEqual([...sizes].sort((a, b) => a - b));
    expect(device.memory().blocks).toBe(0);
    expect(await measureRoof(device, AbortSignal.abort())).toBeUndefined();
  });
});

test('a filter that leaves nothing is refused', async () => {
  const options = { model: 'vit_tiny_patch16_224', batch: [1], dtype: ['f32' as const], filter: /nothing/ };
  await expect(kernels(options)).rejects.toThrow(ArgumentError);
  await expect(kernels({ ...options, filter: /batched/ })).rejects.toThrow(/no kernel matches .*batched/); // CUDA's alone
});
