import { existsSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cosine } from '../../bench/harness';
import { adaptation } from '../../examples/emoji/dataset';
import { normalizeImages, readImage } from '../../lib/data';
import { Device } from '../../lib/device';
import * as models from '../../lib/models';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import { Random } from '../random';

const root = path.join(__dirname, '..', '..');
const tiny = { imageSize: 32, patchSize: 8, dim: 48, depth: 4, heads: 3 };
const dtypes = ['f32', 'bf16', 'int8'] as const;

let device: Device;
beforeAll(async () => {
  device = await Device.open('cpu', { guards: true });
});
afterAll(() => device.close());

function pixels(images: number, side: number): Float32Array {
  const random = new Random(1);
  return Float32Array.from({ length: images * 3 * side * side }, () => random.normal());
}

describe('a backbone in int8', () => {
  it('holds its matrices in a byte a number', async () => {
    await using counting = await Device.open('cpu', { plan: true });
    const bytes = (dtype: models.ComputeDtype): number => {
      using backbone = models.vit(counting, 'vit_base_patch16_224', { dtype });
      expect(backbone.dtype).toBe(dtype);
      return counting.memory().current.weights;
    };
    const matrices = 12 * (3 + 1 + 4 + 4) * 768 * 768;
    const outputs = 12 * (3 + 1 + 4 + 1) * 768;
    expect(bytes('f32') - bytes('int8')).toBe(3 * matrices - 8 * outputs);
  });

  it('computes the same on every number of threads', async () => {
    const results = [];
    for (const threads of [1, 2, 3]) {
      await using other = await Device.open('cpu', { threads });
      const backbone = models.vit(other, tiny, { dtype: 'int8', seed: 5 });
      const model = petl.dtl(backbone, { classes: 7, startBlock: 2 });
      results.push(await model.forward(pixels(3, 32)).readBytes());
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });

  it('trains DTL and DTL+ to about what bf16 does, and gives everything back', async () => {
    for (const method of [petl.dtl, petl.dtlPlus]) {
      const losses: Record<string, number[]> = {};
      for (const dtype of dtypes) {
        const before = device.memory().currentBytes;
        const backbone = models.vit(device, tiny, { dtype, seed: 5 });
        const model = method(backbone, { classes: 3, startBlock: 2 });
        const optimizer = adamW(model.parameters(), { lr: 1e-2 });
        const batch = { images: pixels(6, 32), labels: Int32Array.from([0, 1, 2, 0, 1, 2]) };
        losses[dtype] = [];
        for (let step = 0; step < 12; step++) losses[dtype].push((await model.step(batch, optimizer)).loss);
        for (const item of [optimizer, model, backbone]) item.dispose();
        expect(device.memory().currentBytes).toBe(before);
      }
      expect(losses.int8!.at(-1)).toBeLessThan(losses.int8![0]! * 0.7);
      for (const [step, loss] of losses.int8!.entries())
        expect(Math.abs(loss - losses.f32![step]!), `step ${step}`).toBeLessThan(0.05);
    }
    expect(await device.checkGuards()).toBeNull();
  });

  it('keeps the prefix of a DTL step in int8 and widens what a gradient flows through, once', async () => {
    using backbone = models.vit(device, tiny, { dtype: 'int8', seed: 5 });
    using model = petl.dtl(backbone, { classes: 3, startBlock: 2 });
    using optimizer = adamW(model.parameters());
    const before = device.memory().current.weights;
    const batch = { images: pixels(2, 32), labels: Int32Array.from([0, 1]) };
    await model.step(batch, optimizer);
    const widened = device.memory().current.weights - before;
    using wide = models.vit(device, tiny, { dtype: 'bf16', seed: 5 });
    const matrix = (name: string): number => {
      using plain = wide.plain(`blocks.3.${name}.weight`);
      return plain.size * 2;
    };
    // Blocks 3 and 4, for x Wᵀ; oneDNN pads small matrices.
    const perBlock = ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'].map(matrix).reduce((sum, bytes) => sum + bytes);
    expect(widened).toBeGreaterThanOrEqual(2 * perBlock);
    expect(widened).toBeLessThan(2.5 * 2 * perBlock); // widened to f32 they are twice as large
    const after = device.memory().current.weights;
    await model.step(batch, optimizer);
    expect(device.memory().current.weights).toBe(after);
  });

  it('is refused by a method that trains its matrices, before anything is taken', () => {
    using backbone = models.vit(device, tiny, { dtype: 'int8' });
    const before = device.memory().currentBytes;
    expect(() => petl.full(backbone, { classes: 3 })).toThrow(
      /petl.full: the backbone's 'blocks.0.attn.qkv.weight' is in int8, expected f32 or bf16/,
    );
    expect(device.memory().currentBytes).toBe(before);
  });
});

describe('logits of real pictures', () => {
  const backbone = path.join(root, 'examples/emoji/backbone.safetensors');
  const installed = existsSync(path.join(root, 'examples/emoji/node_modules'));

  it.skipIf(!installed)('in int8 and bf16 point where those in f32 do, to 0.99 and 0.999', async () => {
    const { test } = adaptation();
    const samples = test.samples.slice(0, 64);
    const pixels = await Promise.all(samples.map(({ path: file }) => readImage(file, { size: 64 })));
    const pictures = normalizeImages(Uint8Array.from(pixels.flatMap((image) => [...image])), 64);
    const logits: Record<string, Float32Array> = {};
    for (const dtype of dtypes) {
      using vit = await models.load(device, backbone, { dtype });
      using model = petl.linear(vit, { classes: 9, seed: 3 });
      using result = model.forward(pictures);
      logits[dtype] = (await result.read()) as Float32Array;
    }
    const worst = (dtype: string): number =>
      Math.min(
        ...Array.from({ length: logits.f32!.length / 9 }, (_, i) => {
          const row = (all: Float32Array): number[] => [...all.subarray(i * 9, i * 9 + 9)];
          return cosine(row(logits[dtype]!), row(logits.f32!));
        }),
      );
    expect(logits.f32).toHaveLength(64 * 9);
    expect(worst('bf16')).toBeGreaterThan(0.999);
    expect(worst('int8')).toBeGreaterThan(0.99);
  });
});
