import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device } from '../../lib/device';
import { addon } from '../../lib/native';
import { keep, outsideScopes, scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { openDevice } from '../each_target';

let device: Device;
beforeAll(async () => {
  device = await openDevice();
});
afterAll(async () => {
  expect(device.memory()).toMatchObject({ currentBytes: 0, blocks: 0 });
  await device.close();
  expect(addon.finalizedTensors()).toBe(0);
});

const make = (): Tensor => Tensor.zeros(device, [4]);
const tick = (ms = 1): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const blocks = (): number => device.memory().blocks;

describe('scope', () => {
  it('disposes what was made inside, except what it returns', () => {
    let inside: Tensor;
    const result = scope(() => {
      inside = make();
      return make();
    });
    expect([inside!.disposed, result.disposed]).toEqual([true, false]);
    result.dispose();
  });

  it('keeps tensors in arrays, objects, maps and sets, however deep, and round in circles', () => {
    const kept = scope(() => {
      make();
      const value = {
        array: [make(), [make()]],
        map: new Map([['a', make()]]),
        set: new Set([make()]),
        none: null,
        number: 3,
        self: undefined as unknown,
      };
      value.self = value;
      return value;
    });
    expect(blocks()).toBe(4);
    const all = [kept.array[0], (kept.array[1] as Tensor[])[0], kept.map.get('a'), [...kept.set][0]] as Tensor[];
    for (const tensor of all) tensor.dispose();
  });

  it('does not look into objects of classes', () => {
    class Model {
      constructor(readonly weight: Tensor) {}
    }
    const model = scope(() => new Model(make()));
    expect(model.weight.disposed).toBe(true);
  });

  it('disposes everything when the body throws', () => {
    expect(() =>
      scope(() => {
        make();
        scope(() => void make());
        throw new Error('on purpose');
      }),
    ).toThrow('on purpose');
    expect(blocks()).toBe(0);
  });

  it('leaves alone what was made before', () => {
    const before = make();
    scope(() => {
      before.alias();
    });
    scope(() => before)
      .alias()
      .dispose();
    expect(before.disposed).toBe(false);
    before.dispose();
  });

  it('hands what an inner scope returns to the outer one', () => {
    let middle: Tensor;
    const result = scope(() => {
      middle = scope(make);
      expect(middle.disposed).toBe(false);
      return scope(() => scope(make));
    });
    expect([middle!.disposed, result.disposed]).toEqual([true, false]);
    result.dispose();
  });

  it('does not mind tensors that were disposed inside', () => {
    scope(() => {
      const tensor = make();
      scope(() => tensor.dispose());
      make().dispose();
    });
    expect(blocks()).toBe(0);
  });
});

describe('asynchronous scopes', () => {
  it('end when the promise settles', async () => {
    const promise = scope(async () => {
      const first = make();
      await tick();
      const second = make();
      expect(blocks()).toBe(2);
      await first.read();
      return second;
    });
    expect(blocks()).toBe(1);
    const result = await promise;
    expect(blocks()).toBe(1);
    result.dispose();
  });

  it('dispose everything when the promise is rejected', async () => {
    const promise = scope(async () => {
      make();
      await tick();
      make();
      throw new Error('on purpose');
    });
    await expect(promise).rejects.toThrow('on purpose');
    expect(blocks()).toBe(0);
  });

  it('overlap without mixing', async () => {
    const run = (delay: number) =>
      scope(async () => {
        const mine = [make()];
        for (let step = 0; step < 5; step++) {
          await tick(delay);
          mine.push(make());
          for (const tensor of mine) expect(tensor.disposed).toBe(false);
        }
        return mine.at(-1)!;
      });
    const results = await Promise.all([run(1), run(3), run(2)]);
    expect(blocks()).toBe(3);
    for (const tensor of results) tensor.dispose();
  });

  it('nest', async () => {
    const result = await scope(async () => {
      make();
      const inner = await scope(async () => {
        make();
        await tick();
        return make();
      });
      await tick();
      expect(blocks()).toBe(2);
      return inner;
    });
    expect(blocks()).toBe(1);
    result.dispose();
  });

  it('that outlive the scope around them give their result to the caller', async () => {
    let promise: Promise<Tensor>;
    scope(() => {
      promise = scope(async () => {
        await tick();
        return make();
      });
    });
    const result = await promise!;
    expect(result.disposed).toBe(false);
    result.dispose();
  });

  it('do not hold what a call makes after their end', async () => {
    let late: Promise<Tensor>;
    await scope(async () => {
      late = tick(5).then(make);
    });
    const tensor = await late!;
    expect(tensor.disposed).toBe(false);
    tensor.dispose();
  });
});

describe('keep', () => {
  it('takes a tensor out of its scope', () => {
    const tensor = scope(() => {
      const kept = keep(make());
      make();
      return { hidden: () => kept };
    }).hidden();
    expect(tensor.disposed).toBe(false);
    tensor.dispose();
  });

  it('works for tensors of a scope further out', () => {
    let tensor: Tensor;
    scope(() => {
      tensor = make();
      scope(() => outsideScopes(() => keep(tensor)));
    });
    expect(tensor!.disposed).toBe(false);
    tensor!.dispose();
  });

  it('is no error where there is no scope', () => {
    keep(make()).dispose();
  });
});

describe('outsideScopes', () => {
  it('makes tensors of no scope, also after a scope inside it', () => {
    const made: Tensor[] = [];
    scope(() => {
      outsideScopes(() => {
        made.push(make());
        made.push(scope(make));
        scope(() => void make());
        made.push(make());
      });
      make();
    });
    expect(made.map(({ disposed }) => disposed)).toEqual([false, false, false]);
    expect(blocks()).toBe(3);
    for (const tensor of made) tensor.dispose();
  });
});
