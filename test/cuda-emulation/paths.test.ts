/** Paths of the CUDA kernels that no op takes, or only shapes beyond the tests of ops: see scripts/cuda-coverage.mjs. */

import { expect, it } from 'vitest';
import type { Device, DeviceOptions } from '../../lib/device';
import { kernels } from '../../lib/kernels';
import { linear } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { type DType, Tensor } from '../../lib/tensor';
import { difference, epsilon } from '../compare';
import { openVariant } from '../each_target';

async function on(variant: string, body: (device: Device) => Promise<void>, options: DeviceOptions = {}) {
  await using device = await openVariant(variant, options);
  await scope(() => body(device));
}
const waves = (device: Device, shape: number[], salt: number, dtype: DType = 'f32'): Tensor =>
  Tensor.from(
    device,
    Float32Array.from({ length: shape.reduce((p, n) => p * n, 1) }, (_, i) => Math.sin(salt + i * i)),
    shape,
    { dtype },
  );
const read = async (tensor: Tensor): Promise<number[]> => Array.from((await tensor.read()) as Float32Array);

it('a backward call of which nothing is wanted does nothing', async () => {
  await on('', async (device) => {
    const [x, gradOut] = [waves(device, [2, 3, 8], 1), waves(device, [2, 3, 8], 2)];
    const nothing = (name: string) => ({ wanted: { [name]: false } });
    const labels = Tensor.zeros(device, [2], { dtype: 'i32' });
    const lse = Tensor.zeros(device, [2]);
    const weight = waves(device, [8, 1, 3, 3], 3);
    const conv = { x: waves(device, [1, 9, 8], 4), gradOut: waves(device, [1, 9, 8], 5), weight, grid: [3, 3] };
    const results = [
      kernels.geluBackward({ gradOut, x }, nothing('gradX')),
      kernels.swishBackward({ gradOut, x, beta: 1 }, nothing('gradX')),
      kernels.softmaxCrossEntropyBackward(
        { gradLoss: Tensor.zeros(device, [1]), logits: waves(device, [2, 5], 6), labels, lse, labelSmoothing: 0 },
        nothing('gradLogits'),
      ),
      kernels.residualAddBackward({ gradOut, rowScale: waves(device, [2], 7) }, nothing('gradBranch')),
      kernels.depthwiseConvBackward({ ...conv, prefixTokens: 0 }, nothing('gradX')),
    ];
    await device.synchronize();
    expect(results.flatMap((result) => Object.values(result).filter(Boolean))).toEqual([]);
  });
});

it('inject without a kernel adds to the residual', async () => {
  await on('', async (device) => {
    const [gradOut, h, residual] = [waves(device, [3, 11], 1), waves(device, [3, 11], 2), waves(device, [3, 11], 3)];
    const alone = await read(kernels.sideInjectBackward({ gradOut, h, beta: 2 }).gradH!);
    const both = await read(kernels.sideInjectBackward({ gradOut, h, beta: 2, residual }).gradH!);
    const more = await read(residual);
    expect(
      difference(
        both,
        Float32Array.from(alone, (value, i) => value + more[i]!),
        { roundings: 2, epsilon: epsilon.f32 },
      ),
    ).toBeNull();
    const nothing = kernels.sideInjectBackward({ gradOut, h, beta: 2 }, { wanted: { gradH: false } });
    expect(nothing.gradH).toBeUndefined();
  });
});

it('batched attention keeps no log-sum-exp that is not wanted', async () => {
  await on('', async (device) => {
    const qkv = waves(device, [2, 9, 48], 1);
    const kept = kernels.attentionForward({ qkv, heads: 2, algorithm: 'batched' }, { save: true });
    const { out, lse } = kernels.attentionForward({ qkv, heads: 2, algorithm: 'batched' });
    expect(lse).toBeUndefined();
    expect(await read(out)).toEqual(await read(kept.out));
  });
});

it.each([12_300, 12_301])('layer norm of rows of %i, which shared memory does not hold', async (d) => {
  await on('', async (device) => {
    const x = waves(device, [2, d], 1);
    const ones = Tensor.from(device, new Float32Array(d).fill(1), [d]);
    const { out, mean, rstd } = kernels.layerNormForward(
      { x, weight: ones, bias: Tensor.zeros(device, [d]) },
      { save: true },
    );
    const row = (await read(x)).slice(0, d);
    const center = row.reduce((sum, value) => sum + value, 0) / d;
    const scale = 1 / Math.sqrt(row.reduce((sum, value) => sum + (value - center) ** 2, 0) / d + 1e-6);
    const expected = row.map((value) => (value - center) * scale);
    expect(difference((await read(out)).slice(0, d), expected, { roundings: 40, epsilon: epsilon.f32 })).toBeNull();
    // Backward has no such path: it says so.
    kernels.layerNormBackward({ gradOut: out, x, weight: ones, mean: mean!, rstd: rstd! });
    await expect(device.synchronize()).rejects.toThrow(/bytes of shared memory is more than this device takes/);
  });
});

// Factors of 24 ranks, and rows, too long for shared memory: what is read comes from scratch memory.
it.each([12_300, 12_301])('layer norm with a side layer of rows of %i', async (d) => {
  await on('', async (device) => {
    const r = 20;
    const [x, a] = [waves(device, [2, d], 1), waves(device, [d, r], 2)];
    const [weight, bias] = [Tensor.from(device, new Float32Array(d).fill(1), [d]), Tensor.zeros(device, [d])];
    const { out, u } = kernels.layerNormProjectForward({ x, weight, bias, a });
    expect(await read(out)).toEqual(await read(kernels.layerNormForward({ x, weight, bias }).out));
    const [got, apart] = [await read(u), await read(kernels.lowRankProjectForward({ z: x, a }).u)];
    const largest = Math.max(...apart.map(Math.abs));
    for (const [i, value] of got.entries()) expect(Math.abs(value - apart[i]!)).toBeLessThanOrEqual(1e-4 * largest);
  });
});

it('products with tf32 and on a Hopper differ by nothing but rounding', async () => {
  const product = async (variant: string, dtype: DType, options: DeviceOptions): Promise<number[]> => {
    let result: number[] = [];
    const body = async (device: Device) => {
      result = await read(linear(waves(device, [5, 24], 1, dtype), waves(device, [7, 24], 2, dtype)));
    };
    await on(variant, body, options);
    return result;
  };
  const exact = await product('', 'f32', {});
  const bound = { roundings: 4, epsilon: 2 ** -11 };
  expect(difference(await product('capability=9.0', 'f32', { tf32: true }), exact, bound)).toBeNull();
  expect(await product('', 'bf16', { tf32: true })).toEqual(await product('', 'bf16', {}));
});

it('weights in int8 are refused, and a Turing says that it has no bf16', async () => {
  await on('capability=7.5', async (device) => {
    expect(() => Tensor.empty(device, [8, 8], { dtype: 'i8', layout: 'packed' })).toThrow(
      /int8 are for devices on the CPU/,
    );
    expect(device.info()).toMatchObject({ computeCapability: '7.5' });
  });
});

// Fewer warps a block, where their u would not fit beside each other.
it.each([4, 3])('many ranks on a small GPU, width %i', async (d) => {
  const results: number[][] = [];
  for (const variant of ['sms=1 shared=48', 'sms=132 shared=227']) {
    await on(variant, async (device) => {
      const [h, c] = [Tensor.zeros(device, [80, d]), waves(device, [240, d], 1)];
      kernels.lowRankCombineForward({ h, u: [waves(device, [80, 240], 2)], c: [c] });
      results.push(await read(h));
    });
  }
  expect(results[0]).toEqual(results[1]);
});
