/** A method of one's own, through the same door as DTL: the example of the README, and every hook. */

import { describe, expect, it } from 'vitest';
import { type Vit, vit } from '../../lib/models';
import * as ops from '../../lib/ops';
import { adamW } from '../../lib/optim';
import * as petl from '../../lib/petl';
import type { Tensor } from '../../lib/tensor';
import { openDevice, testDevice } from '../each_target';
import { Random } from '../random';

const tiny = { imageSize: 16, patchSize: 8, dim: 16, depth: 3, heads: 2 };

const gated = petl.define(
  'gated',
  { width: 8 },
  {
    parameters: ({ config }, init, { width }) => ({
      'gate.down': { shape: [width, config.dim], init: init.uniform(0.3) },
      'gate.up': { shape: [config.dim, width], init: init.zeros() },
    }),
    branch: (_i, _which, y, _stream, p) =>
      ops.add(y, ops.linear(ops.gelu(ops.linear(y, p['gate.down']!)), p['gate.up']!)),
  },
);

const random = new Random(1);
const batch = {
  images: Float32Array.from({ length: 4 * 3 * 16 * 16 }, () => random.normal()),
  labels: Int32Array.from([0, 1, 2, 0]),
};

async function logitsOf(model: petl.PetlModel): Promise<Float32Array> {
  const logits = model.forward(batch.images);
  const numbers = (await logits.read()) as Float32Array;
  logits.dispose();
  return numbers;
}

describe('a method of thirty lines', () => {
  it('starts as the frozen backbone, learns, and leaves the backbone as it was', async () => {
    const device = await openDevice();
    const backbone = vit(device, tiny, { seed: 1 });
    const before = await backbone.plain('blocks.1.mlp.fc1.weight').readBytes();
    const model = gated(backbone, { classes: 3, width: 4 });
    expect(model.parameterCount).toBe(2 * 4 * 16);
    // Not to the bit: what `afterBlock` gives might depend on the tokens, so no mean is taken before them.
    const frozen = await logitsOf(petl.linear(backbone, { classes: 3 }));
    for (const [i, logit] of (await logitsOf(model)).entries()) expect(logit).toBeCloseTo(frozen[i]!, 4);
    const optimizer = adamW(model.parameters(), { lr: 0.02 });
    const losses = [];
    for (let i = 0; i < 30; i++) losses.push((await model.step(batch, optimizer)).loss);
    expect(losses.at(-1)!).toBeLessThan(0.5 * losses[0]!);
    expect(await backbone.plain('blocks.1.mlp.fc1.weight').readBytes()).toEqual(before);
    await device.close();
  });

  it('has the gradients that its forward has', async () => {
    const rows = await petl.check(gated, { width: 4 }, { device: testDevice });
    expect(rows.map(({ name }) => name)).toEqual(expect.arrayContaining(['gate.down', 'gate.up', 'head.weight']));
  });

  it('passes every hook in order, with what it declares', async () => {
    const device = await openDevice();
    const seen: string[] = [];
    const note = (name: string, x: Tensor): Tensor => {
      seen.push(`${name} [${x.shape.join(', ')}]`);
      return x;
    };
    const watching = petl.define(
      'watching',
      {},
      {
        patches: (x) => note('patches', x),
        tokens: (z) => note('tokens', z),
        beforeBlock: (i, z) => note(`before ${i}`, z),
        norm: (name, y) => note(name, y),
        linear: (name, _x, y) => note(name, y),
        branch: (i, which, y) => note(`${which} ${i}`, y),
        dropped: (i, which, y) => note(`${which} ${i} dropped`, y),
        afterBlock: (i, z) => note(`after ${i}`, z),
        features: (z) => note('features', z),
      },
    );
    const model = watching(vit(device, { ...tiny, depth: 1 }, { seed: 1 }), { classes: 3 });
    const logits = await logitsOf(model);
    expect(seen).toEqual([
      'patches [4, 4, 16]',
      'tokens [4, 5, 16]',
      'before 1 [4, 5, 16]',
      'blocks.0.norm1 [4, 5, 16]',
      'blocks.0.attn.qkv [4, 5, 48]',
      'blocks.0.attn.proj [4, 5, 16]',
      'attn 1 [4, 5, 16]',
      'attn 1 dropped [4, 5, 16]',
      'blocks.0.norm2 [4, 5, 16]',
      'blocks.0.mlp.fc1 [4, 5, 64]',
      'blocks.0.mlp.fc2 [4, 5, 16]',
      'mlp 1 [4, 5, 16]',
      'mlp 1 dropped [4, 5, 16]',
      'after 1 [4, 5, 16]',
      'features [4, 5, 16]',
      'norm [4, 16]',
    ]);
    // The epilogues that hooks take apart give what the fused ones give.
    const plain = await logitsOf(petl.linear(model.backbone as Vit, { classes: 3 }));
    for (const [index, value] of logits.entries()) expect(value).toBeCloseTo(plain[index]!, 5);
    await device.close();
  });

  it('refuses unknown options and a name that is taken', () => {
    expect(() => petl.define('gated', {}, {})).toThrow(/a method 'gated' exists already/);
    expect(() => gated({} as Vit, { classes: 3, widht: 4 } as never)).toThrow(/unknown option 'widht', known: .*width/);
  });
});
