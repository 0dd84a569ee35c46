/** Fisher information held against differences of the loss, and LST's side network cut by it. */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../lib/device';
import { type ComputeDtype, type Vit, vit } from '../../lib/models';
import * as petl from '../../lib/petl';
import { fisherInformation } from '../../lib/petl/fisher';
import { onCpu, openDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 2, heads: 2 };
const [dim, hidden, reduction, classes, images] = [16, 64, 4, 3, 5];
const pixels = 3 * 16 * 16;
const random = new Random(7);
const all: petl.TrainingBatch = {
  images: Float32Array.from({ length: images * pixels }, () => random.normal()),
  labels: Int32Array.from([0, 2, 1, 1, 0]),
};
const single = Array.from({ length: images }, (_, i) => part(i, i + 1));

function part(from: number, to: number): petl.TrainingBatch {
  return { images: all.images.slice(from * pixels, to * pixels), labels: all.labels.slice(from, to) };
}

async function* samples(batches: readonly petl.TrainingBatch[] = single): AsyncGenerator<petl.TrainingBatch> {
  yield* batches;
}

/** Lays what it is given open. */
const looking = petl.define(
  'looking',
  { count: images },
  {
    pool: 'cls',
    initialize: async (backbone, _p, { count }, context) => {
      const sums = await fisherInformation(backbone, context, context.samples!, count);
      for (const [name, tensor] of sums) {
        seen.set(name, (await tensor.read()) as Float32Array);
        tensor.dispose();
      }
    },
  },
);
const seen = new Map<string, Float32Array>();

async function informationOf(backbone: Vit, options: { count?: number; given?: petl.TrainingBatch[] } = {}) {
  const { count = images, given = single } = options;
  seen.clear();
  using model = looking(backbone, { classes, seed: 2, count });
  await model.initialize({ samples: samples(given) });
  return new Map(seen);
}

let device: Device;
let information: Map<string, Float32Array>;
const backboneOf = (dtype: ComputeDtype = 'f32'): Vit => vit(device, tiny, { seed: 1, dtype });

beforeAll(async () => {
  device = await openDevice({ guards: true });
  using backbone = backboneOf();
  information = await informationOf(backbone);
});
afterAll(async () => {
  expect(await device.checkGuards()).toBeNull();
  expect(device.memory().currentBytes).toBe(0);
  await device.close();
});

describe('Fisher information', () => {
  it('is the sum of squared gradients of single images', async () => {
    const names = [0, 1].flatMap((i) =>
      ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'].map((at) => `blocks.${i}.${at}`),
    );
    expect([...information.keys()].sort()).toEqual(
      ['patch_embed.proj', ...names].map((name) => `${name}.weight`).sort(),
    );
    using backbone = backboneOf();
    using full = petl.full(backbone, { classes, seed: 2, pool: 'cls' });
    const tensors = new Map(full.parameters().map(({ name, tensor }) => [name, tensor]));
    const sums = new Map([...information].map(([name, { length }]) => [name, new Float64Array(length)]));
    for (const sample of single) {
      const { loss, correct, grads } = full.gradients(sample);
      for (const [name, sum] of sums) {
        const gradient = (await grads[name]!.read()) as Float32Array;
        for (const [i, value] of gradient.entries()) sum[i]! += value ** 2;
      }
      for (const tensor of [loss, correct, ...Object.values(grads)]) tensor.dispose();
    }
    for (const [name, sum] of sums) {
      const largest = Math.max(...sum);
      expect(largest, name).toBeGreaterThan(0);
      for (const [i, value] of information.get(name)!.entries())
        expect(Math.abs(value - sum[i]!) / largest, `${name} ${i}`).toBeLessThan(1e-5);
    }

    // And what the gradients are, by five-point differences of the loss, for the weight of each matrix that counts most.
    for (const [name, numbers] of information) {
      const place = numbers.indexOf(Math.max(...numbers));
      const start = (await tensors.get(name)!.read()) as Float32Array;
      let expected = 0;
      for (const sample of single) {
        const lossAt = async (distance: number): Promise<number> => {
          tensors.get(name)!.write(start.map((value, i) => (i === place ? value + distance : value)));
          using loss = full.loss(sample);
          return (await loss.read())[0]!;
        };
        const near = (await lossAt(0.02)) - (await lossAt(-0.02));
        const far = (await lossAt(0.04)) - (await lossAt(-0.04));
        expected += ((8 * near - far) / (12 * 0.02)) ** 2;
      }
      tensors.get(name)!.write(start);
      expect(Math.abs(numbers[place]! - expected) / expected, name).toBeLessThan(2e-2);
    }
  });

  it('takes images one by one, however they come, and no more than asked for', async () => {
    using backbone = backboneOf();
    expect(await informationOf(backbone, { given: [part(0, 3), part(3, 5)] })).toEqual(information);
    expect(await informationOf(backbone, { count: 1000 })).toEqual(information);
    const two = await informationOf(backbone, { given: single.slice(0, 2) });
    expect(await informationOf(backbone, { given: [all], count: 2 })).toEqual(two);
    expect(two).not.toEqual(information);
  });

  it.each(['f32', 'bf16', 'int8'] as const)('leaves nothing on the device: %s', async (dtype) => {
    if (dtype === 'int8' && !onCpu) return;
    using backbone = backboneOf(dtype);
    const before = device.memory().currentBytes;
    const sums = await informationOf(backbone);
    expect(device.memory().currentBytes).toBe(before);
    for (const numbers of sums.values()) expect(Math.max(...numbers)).toBeGreaterThan(0);
  });

  // On CUDA the products' workspace alone is larger than this model.
  it.runIf(onCpu)('needs memory for itself and little more', async () => {
    const larger = { ...tiny, dim: 64, depth: 6 };
    using backbone = vit(device, larger, { seed: 1 });
    device.resetPeak();
    const before = device.memory().currentBytes;
    const sums = await informationOf(backbone);
    const bytes = [...sums.values()].reduce((total, { byteLength }) => total + byteLength, 0);
    expect(device.memory().peakBytes - before).toBeLessThan(1.6 * bytes);
  });
});

describe('LST cut by it', () => {
  const largest = (values: readonly number[], count: number): number[] =>
    [...values.keys()]
      .sort((a, b) => values[b]! - values[a]!)
      .slice(0, count)
      .sort((a, b) => a - b);
  const sum = (numbers: readonly number[]): number => numbers.reduce((total, value) => total + value, 0);

  async function startOf(given: AsyncIterable<petl.TrainingBatch>): Promise<Map<string, Float32Array>> {
    using backbone = backboneOf();
    using model = petl.lst(backbone, { classes, seed: 2, reduction });
    await model.initialize({ samples: given });
    const numbers = new Map<string, Float32Array>();
    for (const { name, tensor } of model.parameters()) numbers.set(name, (await tensor.read()) as Float32Array);
    return numbers;
  }

  it('keeps the channels, numbers of heads and hidden units that count most', async () => {
    const start = await startOf(samples());
    const at = (name: string, row: number, column: number): number => {
      const numbers = information.get(`${name}.weight`)!;
      return numbers[row * (numbers.length / rowsOf(name)) + column]!;
    };
    const rowsOf = (name: string): number => (name.endsWith('qkv') ? 3 * dim : name.endsWith('fc1') ? hidden : dim);
    const columns = (name: string): number[] => [
      ...Array(information.get(`${name}.weight`)!.length / rowsOf(name)).keys(),
    ];
    const writers = ['patch_embed.proj', ...[0, 1].flatMap((i) => [`blocks.${i}.attn.proj`, `blocks.${i}.mlp.fc2`])];
    const channels = largest(
      Array.from({ length: dim }, (_, row) =>
        sum(writers.map((name) => sum(columns(name).map((column) => at(name, row, column))))),
      ),
      dim / reduction,
    );
    using backbone = backboneOf();
    const cut = async (name: string, rows: readonly number[], within: readonly number[]): Promise<Float32Array> => {
      using tensor = backbone.plain(`${name}.weight`);
      const numbers = await tensor.read();
      return Float32Array.from(rows.flatMap((i) => within.map((j) => numbers[i * tensor.shape[1]! + j]!)));
    };
    for (const i of [0, 1]) {
      const block = `blocks.${i}`;
      const row = (name: string, index: number): number =>
        sum(channels.map((column) => at(`${block}.${name}`, index, column)));
      const heads = [0, 8].flatMap((first) =>
        largest(
          Array.from({ length: 8 }, (_, e) =>
            [0, dim, 2 * dim].reduce((product, third) => product * row('attn.qkv', third + first + e), 1),
          ),
          2,
        ).map((e) => first + e),
      );
      const units = largest(
        Array.from(
          { length: hidden },
          (_, unit) => row('mlp.fc1', unit) * sum(channels.map((channel) => at(`${block}.mlp.fc2`, channel, unit))),
        ),
        hidden / reduction,
      );
      const rows = [0, dim, 2 * dim].flatMap((third) => heads.map((each) => third + each));
      expect(start.get(`lst.${block}.attn.qkv.weight`)).toEqual(await cut(`${block}.attn.qkv`, rows, channels));
      expect(start.get(`lst.${block}.attn.proj.weight`)).toEqual(await cut(`${block}.attn.proj`, channels, heads));
      expect(start.get(`lst.${block}.mlp.fc1.weight`)).toEqual(await cut(`${block}.mlp.fc1`, units, channels));
      expect(start.get(`lst.${block}.mlp.fc2.weight`)).toEqual(await cut(`${block}.mlp.fc2`, channels, units));
    }
    expect(await startOf(samples())).toEqual(start);
  });

  it('wants images, says so, and is as it was when it gets none or is stopped', async () => {
    using backbone = backboneOf();
    using model = petl.lst(backbone, { classes, reduction });
    const tensor = model.parameters().find(({ name }) => name === 'lst.blocks.0.mlp.fc1.weight')!.tensor;
    const [before, bytes] = [await tensor.read(), device.memory().currentBytes];
    const refused: [given: petl.InitializeOptions, said: RegExp][] = [
      [
        {},
        /importance 'fisher' takes images of the task; expected model\.initialize\(\{ samples \}\), or importance: 'ma/,
      ],
      [{ samples: samples([]) }, /'samples' has no image, expected at least one/],
      [{ samples: samples(), signal: AbortSignal.abort(new Error('enough')) }, /^enough$/],
      [{ samples: samples([{ images: all.images, labels: all.labels.map(() => 3) }]) }, /'labels' has 3/],
      [{ samples: samples([{ images: all.images.slice(1), labels: all.labels }]) }, /'images' has/],
    ];
    for (const [given, said] of refused) {
      await expect(model.initialize(given)).rejects.toThrow(said);
      expect(model.initialized).toBe(false);
      expect(await tensor.read()).toEqual(before);
      expect(device.memory().currentBytes).toBe(bytes);
    }
    await model.initialize({ samples: samples() });
    expect(await tensor.read()).not.toEqual(before);
    expect(device.memory().currentBytes).toBe(bytes);
  });
});
