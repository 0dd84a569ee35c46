/** NOAH: the supernet holds every subnet, and the search finds what a fitness asks for. */

import { describe, expect, it } from 'vitest';
import { vit } from '../../lib/models';
import * as ops from '../../lib/ops';
import * as petl from '../../lib/petl';
import { Tensor } from '../../lib/tensor';
import { openDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 };
const random = new Random(1);
const batch = {
  images: Float32Array.from({ length: 4 * 3 * 16 * 16 }, () => random.normal()),
  labels: Int32Array.from([0, 1, 2, 0]),
};
const draw = (seed: number): (() => number) => {
  const source = new Random(seed);
  return () => source.uniform();
};

describe('the supernet', () => {
  it('is any of its subnets: logits and gradients of the slices, nothing outside them', async () => {
    const device = await openDevice({ guards: true });
    const backbone = vit(device, tiny, { seed: 1 });
    const sizes = petl.uniformSizes(3, 4);
    const supernet = petl.noahSupernet(backbone, { classes: 3, maxSize: 4, sizes, dropout: 0 });
    for (const { tensor } of supernet.parameters())
      tensor.write(Float32Array.from({ length: tensor.size }, () => 0.3 * random.normal()));
    for (const subnet of [
      { prompt: [2, 0, 4], lora: [0, 3, 1], adapter: [4, 1, 0] },
      { prompt: [0, 0, 1], lora: [0, 0, 0], adapter: [0, 2, 0] },
      petl.uniformSizes(3, 0),
    ]) {
      Object.assign(sizes, subnet);
      const small = petl.noah(backbone, { classes: 3, sizes: subnet, dropout: 0 });
      expect(small.parameterCount).toBe(petl.noahParameterCount(16, subnet));
      const full = new Map(supernet.parameters().map(({ name, tensor }) => [name, tensor]));
      const part = (numbers: Float32Array, from: readonly number[], to: readonly number[]): Float32Array => {
        const [columns, width] = [from.at(-1)!, to.at(-1)!];
        const rows = to.length === 1 ? 1 : to[0]!;
        return Float32Array.from(
          { length: rows * width },
          (_, k) => numbers[Math.floor(k / width) * columns + (k % width)]!,
        );
      };
      for (const { name, tensor } of small.parameters()) {
        const source = full.get(name)!;
        tensor.write(part((await source.read()) as Float32Array, source.shape, tensor.shape));
      }
      const [expected, actual] = [small.gradients(batch), supernet.gradients(batch)];
      expect(await actual.loss.read()).toEqual(await expected.loss.read());
      for (const [name, grad] of Object.entries(actual.grads)) {
        const numbers = (await grad.read()) as Float32Array;
        const own = expected.grads[name];
        const inside = own ? part(numbers, grad.shape, own.shape) : new Float32Array(0);
        expect(inside, name).toEqual(own ? await own.read() : new Float32Array(0));
        const count = (list: Float32Array): number => list.filter((value) => value !== 0).length;
        expect(count(numbers), `${name} outside the slice`).toBe(count(inside));
      }
      for (const { loss, correct, grads } of [expected, actual])
        for (const tensor of [loss, correct, ...Object.values(grads)]) tensor.dispose();
      small.dispose();
    }
    await device.close();
  });

  it('refuses sizes that it has no room for', async () => {
    const device = await openDevice();
    const backbone = vit(device, tiny);
    const sizes = { ...petl.uniformSizes(3, 2), lora: [1, 5, 1] };
    expect(() => petl.noahSupernet(backbone, { classes: 3, maxSize: 4, sizes })).toThrow(
      /petl.noahSupernet: 'sizes.lora' is \[1,5,1\], expected 3 whole numbers from 0 to 4, one for each block/,
    );
    expect(() => petl.noah(backbone, { classes: 3, sizes: { ...sizes, prompt: [1] } })).toThrow(
      /'sizes.prompt' is \[1\]/,
    );
    expect(() => petl.noah(backbone, { classes: 3, sizes: -1 })).toThrow(/'sizes' is -1/);
    expect(() => petl.noah(backbone, { classes: 3, sizes: [1, 2, 3] as never })).toThrow(
      /petl.noah: 'sizes' is \[1,2,3\], expected a whole number, or \{ prompt, lora, adapter \}/,
    );
    await device.close();
  });
});

describe('drop path', () => {
  it('drops the MLP in front of the adapter', async () => {
    const device = await openDevice({ guards: true });
    const backbone = vit(device, { ...tiny, depth: 1 }, { seed: 1 });
    const options = { classes: 3, pool: 'cls', dropPath: 1 - 1e-6 } as const; // every branch of this step is dropped
    const model = petl.noah(backbone, { ...options, sizes: { prompt: [0], lora: [2], adapter: [4] }, dropout: 0 });
    const numbers = new Map<string, Float32Array>();
    for (const { name, tensor } of model.parameters()) {
      numbers.set(
        name,
        Float32Array.from({ length: tensor.size }, () => random.normal()),
      );
      tensor.write(numbers.get(name)!);
    }
    // What is left of the block is the adapter of zeros, the same for all tokens.
    const at = (name: string): Float32Array => numbers.get(`noah.0.adapter.${name}`)!;
    const hidden = at('down.bias').map((b) => b / (1 + Math.exp(-1.702 * b)));
    const shift = at('up.bias').map((b, i) => hidden.reduce((sum, h, j) => sum + h * at('up.weight')[i * 4 + j]!, b));
    const shifted = petl.define(
      'shifted',
      {},
      {
        parameters: ({ config }, init) => ({ shift: { shape: [config.dim], init: init.zeros() } }),
        afterBlock: (_i, z, p) =>
          ops.scaleShift(z, Tensor.from(z.device, new Float32Array(16).fill(1), [16]), p.shift!),
      },
    );
    const expected = shifted(backbone, options);
    for (const { name, tensor } of expected.parameters()) tensor.write(name === 'shift' ? shift : numbers.get(name)!);
    const [mine, theirs] = [model.gradients(batch), expected.gradients(batch)];
    expect((await mine.loss.read())[0]).toBeCloseTo((await theirs.loss.read())[0]!, 5);
    const gradients = async (name: string) => (await mine.grads[name]!.read()) as Float32Array;
    const up = await gradients('noah.0.adapter.up.bias');
    for (const [i, value] of ((await theirs.grads.shift!.read()) as Float32Array).entries())
      expect(up[i]).toBeCloseTo(value, 5);
    expect(Math.max(...up.map(Math.abs))).toBeGreaterThan(1e-3);
    for (const name of ['adapter.down.weight', 'lora.a', 'lora.b'])
      expect(
        (await gradients(`noah.0.${name}`)).every((value) => value === 0),
        name,
      ).toBe(true);
    await device.close();
  });
});

describe('the search', () => {
  const space = { depth: 4, sizes: [1, 2, 4] };
  // The best subnet: prompts nowhere but in block 1, LoRA of 4 everywhere, adapters of 2 in the first half.
  const target: petl.NoahSizes = { prompt: [1, 0, 0, 0], lora: [4, 4, 4, 4], adapter: [2, 2, 0, 0] };
  const distance = (sizes: petl.NoahSizes): number =>
    (['prompt', 'lora', 'adapter'] as const).reduce(
      (sum, module) =>
        sum + sizes[module].reduce((part, size, block) => part + Math.abs(size - target[module][block]!), 0),
      0,
    );

  it('draws modules in the first blocks, of known sizes', () => {
    const next = draw(3);
    const seen = new Set<number>();
    for (let i = 0; i < 200; i++) {
      const { prompt, lora, adapter } = petl.drawNoahSizes(next, { depth: 12 });
      for (const list of [prompt, lora, adapter]) {
        const present = list.filter((size) => size > 0).length;
        seen.add(present);
        expect([3, 6, 9, 12]).toContain(present);
        expect(list.slice(present).every((size) => size === 0)).toBe(true);
        expect(list.slice(0, present).every((size) => [1, 5, 10].includes(size))).toBe(true);
      }
    }
    expect(seen.size).toBe(4);
  });

  it('gets nearer to the best within the budget, judges nobody twice, and is the same for a seed', async () => {
    const judged: string[] = [];
    const run = async (budget: number): Promise<petl.NoahCandidate> => {
      judged.length = 0;
      return await petl.searchNoah({
        ...space,
        dim: 16,
        budget,
        population: 40,
        parents: 8,
        generations: 25,
        random: draw(7),
        fitness: async (sizes) => {
          judged.push(JSON.stringify(sizes));
          return -distance(sizes);
        },
      });
    };
    const best = await run(1e6);
    expect(judged.length).toBeGreaterThan(600);
    expect(new Set(judged).size).toBe(judged.length);
    const first = Math.max(...judged.slice(0, 40).map((key) => -distance(JSON.parse(key))));
    expect(best.fitness).toBeGreaterThan(first + 2);
    expect(best.parameters).toBe(petl.noahParameterCount(16, best.sizes));
    expect(await run(1e6)).toEqual(best);

    const cheap = await run(700);
    expect(cheap.parameters).toBeLessThanOrEqual(700);
    expect(judged.every((key) => petl.noahParameterCount(16, JSON.parse(key)) <= 700)).toBe(true);
    await expect(run(10)).rejects.toThrow(/no subnet fits 'budget' of 10 parameters/);
  });
});
