/** A head that reads CLS, where no gradient is wanted: behind the last attention no other token is computed, and the answers are the same. */

import { describe, expect, it } from 'vitest';
import { valueAndGrad } from '../../lib/autograd';
import { vit } from '../../lib/models';
import * as ops from '../../lib/ops';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import type { Tensor } from '../../lib/tensor';
import { onCpu, openDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 };
const random = new Random(4);
const batch = {
  images: Float32Array.from({ length: 4 * 3 * 16 * 16 }, () => random.normal()),
  labels: Int32Array.from([0, 1, 2, 0]),
};

/** Methods that read CLS and change the blocks, with options for a small backbone. */
const methods: Readonly<Record<string, object>> = {
  bitfit: {},
  vptShallow: { prompts: 2 },
  vptDeep: { prompts: 2 },
  adapter: { bottleneck: 3 },
  adaptFormer: { bottleneck: 3 },
  lora: { rank: 3 },
  noah: { sizes: 2 },
  factTt: { rank: 3 },
  factTk: { rank: 3 },
  ssf: {},
};

const parametersOf = (model: petl.PetlModel): Record<string, Tensor> =>
  Object.fromEntries(model.parameters().map(({ name, tensor }) => [name, tensor]));

async function lossOf(tensor: Tensor): Promise<number> {
  using loss = tensor;
  return (await loss.read())[0]!;
}

describe.each(Object.entries(methods))('%s', (name, options) => {
  it.each([
    ['f32', 1e-5],
    ['bf16', 0.01],
  ] as const)('answers in %s as where every token is computed', async (dtype, bound) => {
    await using device = await openDevice();
    const model = petl.methodNamed(name)!(vit(device, tiny, { seed: 1, dtype }), { classes: 3, ...options });
    expect(model.options.pool).toBe('cls');
    using optimizer = adamW(model.parameters(), { lr: 0.02 });
    for (let i = 0; i < 3; i++) await model.step(batch, optimizer);
    const alone = await lossOf(model.loss(batch));
    // Gradients flow through the last block here, all of it.
    const { value, grads } = valueAndGrad(() => model.loss(batch), parametersOf(model));
    for (const grad of Object.values(grads)) grad.dispose();
    const all = await lossOf(value);
    expect(Math.abs(alone / all - 1)).toBeLessThan(bound);
  });
});

/** A method that trains a scale between the blocks, and what its other hooks were shown in the last of them. */
function watching(name: string, perToken?: boolean) {
  const seen: string[] = [];
  const note = (i: number, place: string, x: Tensor): Tensor => {
    if (i === 3) seen.push(`${place} ${x.shape.slice(1).join(' x ')}`);
    return x;
  };
  const method = petl.define(
    name,
    {},
    {
      ...(perToken === undefined ? {} : { perToken }),
      parameters: (_backbone, init) => ({ scale: { shape: [16], init: init.constant(1.5) } }),
      beforeBlock: (_i, z, p) => ops.scaleShift(z, p.scale!, ops.scale(p.scale!, 0)),
      norm: (place, y) => note(place.startsWith('blocks.2') ? 3 : 0, place.split('.').at(-1)!, y),
      stream: (i, which, stream) => note(i, `stream of ${which}`, stream),
      branch: (i, which, y) => note(i, which, y),
      afterBlock: (i, z) => note(i, 'after', z),
      pool: 'cls',
    },
  );
  return { method, seen };
}

const places = ['norm1', 'stream of attn', 'attn', 'norm2', 'stream of mlp', 'mlp', 'after'];
const shown = (behindAttention: number): string[] =>
  places.map((place) => `${place} ${place === 'norm1' ? 5 : behindAttention} x 16`);

describe.runIf(onCpu)('hooks behind the last attention', () => {
  it('see CLS alone where their method says that they work token by token', async () => {
    await using device = await openDevice();
    const backbone = vit(device, tiny, { seed: 1 });
    const { method, seen } = watching('watchingTokens', true);
    const model = method(backbone, { classes: 3 });
    using alone = model.forward(batch.images);
    expect(seen.splice(0)).toEqual(shown(1));
    const { value, grads } = valueAndGrad(() => model.loss(batch), parametersOf(model));
    for (const tensor of [value, ...Object.values(grads)]) tensor.dispose();
    expect(seen.splice(0)).toEqual(shown(5));

    const { method: careful, seen: all } = watching('watchingAll');
    using same = careful(backbone, { classes: 3, seed: 0 }).forward(batch.images);
    expect(all).toEqual(shown(5));
    const [a, b] = [await alone.read(), await same.read()];
    for (const [i, number] of a.entries()) expect(number).toBeCloseTo(b[i]!, 5);
  });

  it('see every token where the head reads the patches', async () => {
    await using device = await openDevice();
    const { method, seen } = watching('watchingPatches', true);
    const model = method(vit(device, tiny, { seed: 1 }), { classes: 3, pool: 'patch_mean_then_norm' });
    model.forward(batch.images).dispose();
    expect(seen).toEqual(shown(5));
  });
});

it.runIf(onCpu)('the plain backbone multiplies no other token behind the last attention', async () => {
  await using device = await openDevice();
  const backbone = vit(device, tiny, { seed: 1 });
  const flops = async (pool: petl.Pool): Promise<number> => {
    const model = petl.linear(backbone, { classes: 3, pool });
    device.startTrace();
    model.forward(batch.images).dispose();
    const { traceEvents } = await device.stopTrace();
    const products = traceEvents.filter(({ name, args }) => /^(linear|mlp)Forward$/.test(name) && args?.flops);
    return products.reduce((sum, { args }) => sum + Number(args!.flops), 0);
  };
  const [images, patches, d] = [4, 4, 16];
  const left = images * 2 * (patches * (d * d + 2 * d * 4 * d) + (patches + 1) * 3 * d * d); // proj, fc1, fc2; qkv
  const saved = (await flops('norm_then_patch_mean')) - (await flops('cls'));
  expect(Math.abs(saved / left - 1)).toBeLessThan(0.1); // biases and GELU are counted, too
});
