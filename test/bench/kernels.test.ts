/** Every kernel family has its bench cases, and each case is one that the kernel accepts. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { benchKernel, type KernelBench } from '../../bench/harness';
import { kernelBenches, kernels } from '../../bench/kernels';
import { Device } from '../../lib/device';
import { ArgumentError } from '../../lib/errors';
import { scope } from '../../lib/scope';

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

  test.each(families)('%s: the cases are of its own kernels', (family) => {
    const names = kernelBenches[family]!.map(({ kernel }) => kernel);
    expect(names).not.toHaveLength(0);
    expect(kernelsOf(family)).toEqual(expect.arrayContaining([...new Set(names)]));
  });
});

const cases = Object.values(kernelBenches)
  .flat()
  .map((bench): [string, KernelBench] => [`${bench.kernel} ${bench.label ?? ''}`, bench]);

test.each(cases)('%s: runs, and its row is complete', async (_, bench) => {
  await using device = await Device.open('cpu', { plan: true });
  const roof = { gemmGflops: { f32: 100, bf16: 200 }, copy: [{ bytes: 2 ** 20, gbps: 10 }] };
  for (const dtype of ['f32', 'bf16'] as const) {
    const shape = {
      device,
      dtype,
      batch: 2,
      tokens: 17,
      width: 32,
      heads: 2,
      hidden: 64,
      grid: [4, 4] as [number, number],
    };
    const row = await scope(() => benchKernel(bench, shape, roof));
    expect(row).toMatchObject({ kernel: bench.kernel, dtype, direction: bench.direction });
    expect(row.bytes).toBeGreaterThan(0);
    expect(row.flops).toBeGreaterThanOrEqual(0);
  }
  expect(device.memory().blocks).toBe(0);
});

test('a filter that leaves nothing is refused', async () => {
  const options = { model: 'vit_tiny_patch16_224', batch: [1], dtype: ['f32' as const], filter: /nothing/ };
  await expect(kernels(options)).rejects.toThrow(ArgumentError);
});
