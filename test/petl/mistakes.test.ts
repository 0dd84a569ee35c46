/** What goes wrong in a method of one's own: errors name method, hook and block, the model stays usable, no memory stays behind. */

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Device } from '../../lib/device';
import { MethodError, ShapeError } from '../../lib/errors';
import { vit } from '../../lib/models';
import * as ops from '../../lib/ops';
import { adamW } from '../../lib/optim';
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

let device: Device;
let count = 0;

/** A method with a shift behind each block, which goes wrong in one way as long as `wrong` is there. */
function method(mistake: Partial<petl.MethodDefinition<object>>, state: { wrong: boolean }): petl.Method<object> {
  const right: petl.MethodDefinition<object> = {
    parameters: (_backbone, init) => ({
      factor: { shape: [16], init: init.constant(1) },
      shift: { shape: [16], init: init.uniform(0.1) },
    }),
    afterBlock: (_i, z, p) => ops.scaleShift(z, p.factor!, p.shift!),
  };
  const hooks: Record<string, unknown> = { ...right };
  for (const [name, body] of Object.entries(mistake)) {
    const good = hooks[name] as ((...args: unknown[]) => unknown) | undefined;
    hooks[name] =
      typeof body !== 'function'
        ? body
        : (...args: unknown[]) =>
            state.wrong
              ? (body as (...args: unknown[]) => unknown)(...args)
              : (good?.(...args) ?? [...args].reverse().find((arg) => arg instanceof Tensor));
  }
  count++;
  return petl.define(`mistaken${count}`, {}, hooks as petl.MethodDefinition<object>);
}

/** The error of a step, after which a step without the mistake works and nothing is left behind. */
async function errorOf(
  mistake: Partial<petl.MethodDefinition<object>>,
  options: Partial<petl.ModelOptions> = {},
): Promise<Error & { code?: string }> {
  const state = { wrong: true };
  const backbone = vit(device, tiny, { seed: 1 });
  const model = method(mistake, state)(backbone, { classes: 3, ...options });
  const optimizer = adamW(model.parameters());
  const before = device.memory().currentBytes;
  let error: Error | undefined;
  await model.step(batch, optimizer).catch((thrown) => {
    error = thrown;
  });
  expect(error, 'the mistake was found').toBeDefined();
  expect(model.steps).toBe(0);
  const after = device.memory().current;
  expect({ ...after, weights: 0 }, 'nothing of the step stays behind').toMatchObject({
    activations: 0,
    gradients: 0,
    data: 0,
  });
  state.wrong = false;
  expect((await model.step(batch, optimizer)).loss).toBeGreaterThan(0);
  for (const each of [optimizer, model, backbone]) each.dispose();
  expect(device.memory().currentBytes).toBe(0);
  expect(before).toBeGreaterThan(0);
  return error!;
}

beforeEach(async () => {
  device = await openDevice({ guards: true });
});
afterEach(async () => {
  await device.close();
});

describe('a hook', () => {
  it.each(['activations', 'block-inputs'] as const)('that returns another shape (retain: %s)', async (retain) => {
    const error = await errorOf({ linear: (_name, x) => x }, { retain });
    expect(error).toBeInstanceOf(MethodError);
    expect(error).toMatchObject({ code: 'SIDETUNE_METHOD', argument: 'linear', expected: '[4, 5, 48] f32' });
    expect(error.message).toMatch(
      /^petl.mistaken\d+, hook 'linear' at block 1, blocks.0.attn.qkv: returned \[4, 5, 16\] f32, expected \[4, 5, 48\] f32$/,
    );
  });

  it('that returns another dtype', async () => {
    const error = await errorOf({ beforeBlock: (i, z) => (i === 2 ? ops.cast(z, 'bf16') : z) });
    expect(error.message).toMatch(
      /hook 'beforeBlock' at block 2: returned \[4, 5, 16\] bf16, expected \[4, tokens, 16\] f32/,
    );
  });

  it.each([
    ['nothing', (): unknown => undefined, /returned undefined, expected a tensor/],
    ['a promise', async (_i: number, z: Tensor): Promise<unknown> => z, /returned a promise, expected a tensor/],
    [
      'what it has disposed',
      (_i: number, z: Tensor): unknown => {
        const y = ops.scale(z, 2);
        y.dispose();
        return y;
      },
      /returned a tensor that it had disposed/,
    ],
  ])('that returns %s', async (_what, afterBlock, message) => {
    const error = await errorOf({ afterBlock: afterBlock as never });
    expect(error.message).toMatch(/^petl.mistaken\d+, hook 'afterBlock' at block 1: /);
    expect(error.message).toMatch(message);
  });

  it('that throws in the middle of a step', async () => {
    const broken = new TypeError('no such thing');
    const error = await errorOf({
      branch: (i, which, y) => {
        if (i === 3 && which === 'mlp') throw broken;
        return ops.scale(y, 1);
      },
    });
    expect(error).toBeInstanceOf(MethodError);
    expect(error.message).toMatch(/hook 'branch' at block 3, mlp: TypeError: no such thing/);
    expect(error.cause).toBe(broken);
  });

  it('that gives a kernel what it does not take', async () => {
    const error = await errorOf({ afterBlock: (_i, z, p) => ops.add(z, p.shift!) });
    expect(error).toBeInstanceOf(ShapeError);
    expect(error.message).toMatch(/^petl.mistaken\d+, hook 'afterBlock' at block 1: add/);
  });

  it('that drops numbers where the method does not say so', async () => {
    const error = await errorOf({ tokens: (z, _p, context) => context.dropout(z, 0.5, 'here') });
    expect(error.message).toMatch(/hook drops numbers, but the definition's 'drops' does not say so/);
  });

  it('that forgets a parameter', async () => {
    const error = await errorOf({ afterBlock: (_i, z) => ops.scale(z, 2) });
    expect(error).toMatchObject({ code: 'SIDETUNE_METHOD', argument: 'factor' });
    expect(error.message).toMatch(
      /no gradient reaches its parameter 'factor'; expected a hook that uses it, or 'optional/,
    );
  });
});

describe('a declaration', () => {
  it('may say that a parameter is optional', async () => {
    const idle = petl.define(
      'idle',
      {},
      { parameters: (_b, init) => ({ spare: { shape: [4], init: init.constant(2), optional: true } }) },
    );
    const model = idle(vit(device, tiny, { seed: 1 }), { classes: 3 });
    const { loss, correct, grads } = model.gradients(batch);
    expect(await grads.spare!.read()).toEqual(new Float32Array(4));
    for (const tensor of [loss, correct, ...Object.values(grads)]) tensor.dispose();
  });

  it.each(['head.bias', 'blocks.1.norm1.weight'])('of a name that is taken: %s', (name) => {
    const twice = petl.define(
      `twice ${name}`,
      {},
      {
        parameters: (_b, init) => ({ [name]: { shape: [4], init: init.zeros() } }),
        trains: (tensor) => tensor.endsWith('norm1.weight'),
      },
    );
    const backbone = vit(device, tiny, { seed: 1 });
    const before = device.memory().currentBytes;
    expect(() => twice(backbone, { classes: 3 })).toThrow(
      new RegExp(`declares parameter '${name}' twice: the head or a trained tensor has that name`),
    );
    expect(device.memory().currentBytes).toBe(before);
    backbone.dispose();
  });

  it('of a shape that is none leaves nothing behind', () => {
    const bad = petl.define(
      'shapeless',
      {},
      {
        parameters: (_b, init) => ({
          good: { shape: [4], init: init.zeros() },
          bad: { shape: [-1], init: init.zeros() },
        }),
      },
    );
    const backbone = vit(device, tiny, { seed: 1 });
    const before = device.memory().currentBytes;
    expect(() => bad(backbone, { classes: 3 })).toThrow(/petl.shapeless, parameter 'bad': .*-1/);
    expect(device.memory().currentBytes).toBe(before);
    backbone.dispose();
  });
});
