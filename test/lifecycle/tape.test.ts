/** What the tape keeps and lets go, also when something throws in the middle, and that gradients which are handed on stay what they were. */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkpoint, valueAndGrad } from '../../lib/autograd';
import { record, Tape } from '../../lib/autograd/tape';
import type { Device } from '../../lib/device';
import { ArgumentError, DisposedError, MemoryError } from '../../lib/errors';
import { kernels } from '../../lib/kernels';
import { addon } from '../../lib/native';
import { layerNorm, scaleShift } from '../../lib/ops';
import { scope } from '../../lib/scope';
import { Tensor } from '../../lib/tensor';
import { openDevice } from '../each_target';

let device: Device;
beforeAll(async () => {
  device = await openDevice({ guards: true });
});
afterAll(async () => {
  expect(device.memory()).toMatchObject({ currentBytes: 0, blocks: 0 });
  expect(await device.checkGuards()).toBeNull();
  await device.close();
  expect(addon.finalizedTensors()).toBe(0);
});

const tensor = (...numbers: number[]): Tensor => Tensor.from(device, numbers, [numbers.length]);
const numbers = async (from: Tensor): Promise<number[]> => [...(await from.read())];
const dispose = (...tensors: Tensor[]): void => {
  for (const one of tensors) one.dispose();
};

// a + b, with one gradient for both or one for each, and a + a with an accumulator: what ops of these tests are made of.
function add(a: Tensor, b: Tensor): Tensor {
  const { out } = kernels.addForward({ a, b });
  return record('add', { a, b }, out, { backward: ({ gradOut }) => ({ a: gradOut, b: gradOut }) });
}
function addApart(a: Tensor, b: Tensor): Tensor {
  const { out } = kernels.addForward({ a, b });
  const copy = (grad: Tensor): Tensor => {
    const own = Tensor.empty(grad.device, grad.shape, { kind: 'gradients' });
    own.copyFrom(grad);
    return own;
  };
  return record('addApart', { a, b }, out, { backward: ({ gradOut }) => ({ a: copy(gradOut), b: copy(gradOut) }) });
}
function accumulating(x: Tensor): Tensor {
  const { out } = kernels.addForward({ a: x, b: x });
  return record('accumulating', { x }, out, {
    backward: ({ gradOut, accumulator }) => {
      kernels.addInto({ target: accumulator('x')!, x: gradOut });
      return {};
    },
  });
}
function failing(x: Tensor, error: Error): Tensor {
  return record('failing', { x }, x.alias(), {
    saved: { x },
    backward: () => {
      Tensor.zeros(device, [4]); // made before it fails
      throw error;
    },
  });
}

function gradients(body: () => Tensor, inputs: Tensor[], cotangent: Tensor): Tensor[] {
  const tape = new Tape();
  for (const input of inputs) tape.watch(input);
  const out = tape.run(body);
  tape.seed(out, cotangent);
  tape.backward();
  out.dispose();
  return inputs.map((input) => tape.takeGradient(input));
}

describe('gradients', () => {
  it('of a tensor that several ops read are sums', async () => {
    const [x, one] = [tensor(1, 2), tensor(1, 10)];
    const [grad] = gradients(() => scope(() => add(add(x, x), x)), [x], one);
    expect(await numbers(grad!)).toEqual([3, 30]);
    dispose(x, one, grad!);
  });

  it('handed to two inputs are not changed by an accumulator of one of them', async () => {
    const [x, y, one] = [tensor(1, 2), tensor(3, 4), tensor(1, 10)];
    const [gradX, gradY] = gradients(() => scope(() => add(add(accumulating(x), y), x)), [x, y], one);
    expect(await numbers(gradY!)).toEqual([1, 10]);
    expect(await numbers(gradX!)).toEqual([2, 20]);
    expect(await numbers(one)).toEqual([1, 10]);
    dispose(x, y, one, gradX!, gradY!);
  });

  it('are zeros where nothing depends', async () => {
    const [x, y, one] = [tensor(1, 2), tensor(3, 4), tensor(1, 1)];
    const [gradX, gradY] = gradients(() => scope(() => add(x, x)), [x, y], one);
    expect(await numbers(gradX!)).toEqual([2, 2]);
    expect(await numbers(gradY!)).toEqual([0, 0]);
    dispose(x, y, one, gradX!, gradY!);
  });

  it('do not notice that tensors in between are disposed', async () => {
    const [x, one] = [tensor(1, 2), tensor(1, 1)];
    const [grad] = gradients(
      () => {
        const a = add(x, x);
        const b = add(a, a);
        a.dispose();
        return b;
      },
      [x],
      one,
    );
    expect(await numbers(grad!)).toEqual([4, 4]);
    dispose(x, one, grad!);
  });

  it('with a checkpoint are the same bits, and less is kept', async () => {
    const x = Tensor.from(
      device,
      Float32Array.from({ length: 32 }, (_, i) => Math.sin(3 * i)),
      [4, 8],
    );
    const weight = Tensor.from(
      device,
      Float32Array.from({ length: 8 }, (_, i) => 1 + i / 10),
      [8],
    );
    const bias = Tensor.zeros(device, [8]);
    const cotangent = Tensor.from(
      device,
      Float32Array.from({ length: 32 }, (_, i) => Math.cos(i)),
      [4, 8],
    );
    const body = (input: Tensor): Tensor => scope(() => layerNorm(layerNorm(input, weight, bias), weight, bias));
    const run = (forward: () => Tensor): { kept: number; grads: Tensor[] } => {
      const tape = new Tape();
      for (const input of [x, weight]) tape.watch(input);
      const out = tape.run(forward);
      const kept = tape.report().reduce((sum, { bytes }) => sum + bytes, 0);
      tape.seed(out, cotangent);
      tape.backward();
      out.dispose();
      return { kept, grads: [x, weight].map((input) => tape.takeGradient(input)) };
    };
    const plain = run(() => body(x));
    const saving = run(() => checkpoint(body, [x]));
    for (const [index, grad] of plain.grads.entries()) {
      expect(await numbers(saving.grads[index]!)).toEqual(await numbers(grad));
    }
    expect(saving.kept).toBeLessThan(plain.kept);
    dispose(x, weight, bias, cotangent, ...plain.grads, ...saving.grads);
  });
});

describe('nothing is left behind', () => {
  const inputs = (): [Tensor, Tensor] => [tensor(1), tensor(2)];

  it('when the body throws', () => {
    const [x, y] = inputs();
    const body = (): Tensor => {
      add(add(x, y), x);
      throw new Error('on purpose');
    };
    expect(() => valueAndGrad(body, [x, y])).toThrow('on purpose');
    expect(device.memory().blocks).toBe(2);
    dispose(x, y);
  });

  it('when backward throws, with gradients half made', () => {
    const [x, y] = inputs();
    const error = new Error('on purpose');
    expect(() => valueAndGrad(() => add(accumulating(failing(add(x, y), error)), y), { x, y })).toThrow(error);
    expect(device.memory().blocks).toBe(2);
    dispose(x, y);
  });

  it('when backward of a checkpoint throws', () => {
    const [x, y] = inputs();
    const error = new Error('on purpose');
    expect(() => valueAndGrad(() => checkpoint((a) => scope(() => add(failing(a, error), y)), [x]), [x, y])).toThrow(
      error,
    );
    let runs = 0;
    const second = (a: Tensor): Tensor => {
      const result = add(a, y);
      if (runs++) throw error; // only when it is run again
      return result;
    };
    expect(() => valueAndGrad(() => checkpoint(second, [x]), [x, y])).toThrow(error);
    expect(device.memory().blocks).toBe(2);
    dispose(x, y);
  });

  it('when the loss is not one number', () => {
    const two = tensor(1, 2);
    expect(() => valueAndGrad(() => add(two, two), [two])).toThrow(ArgumentError);
    expect(() => valueAndGrad(() => two, [two])).toThrow(ArgumentError);
    expect(two.disposed).toBe(false);
    expect(() => valueAndGrad(() => 3 as never, [two])).toThrow(ArgumentError);
    expect(device.memory().blocks).toBe(1);
    dispose(two);
  });

  it('when memory ends in the middle of backward', async () => {
    // Every limit from just enough for the inputs to enough for all.
    let succeeded = false;
    for (let limit = 200; !succeeded; limit += 40) {
      const small = await openDevice({ memoryLimit: limit });
      const x = Tensor.zeros(small, [10]);
      const weight = Tensor.zeros(small, [10]);
      const tape = new Tape();
      try {
        for (const input of [x, weight]) tape.watch(input);
        scope(() => {
          const out = tape.run(() => scope(() => add(add(addApart(x, weight), accumulating(x)), x)));
          tape.seed(out, x);
          tape.backward();
        });
        for (const input of [x, weight]) tape.takeGradient(input).dispose();
        succeeded = true;
      } catch (error) {
        expect(error).toBeInstanceOf(MemoryError);
      } finally {
        tape.dispose();
      }
      expect(small.memory().blocks, `limit ${limit}`).toBe(2);
      dispose(x, weight);
      await small.close();
    }
  });

  it('when a tape is dropped before backward', () => {
    const [x, y] = inputs();
    const tape = new Tape();
    tape.watch(x);
    scope(() => tape.run(() => void add(layerNorm(x, y, y), y)));
    expect(tape.report().length).toBeGreaterThan(0);
    tape.dispose();
    expect(device.memory().blocks).toBe(2);
    dispose(x, y);
  });
});

describe('a tensor that is two inputs of one op', () => {
  it('has the sum of both gradients, beside what it had from elsewhere', async () => {
    // y = x ∘ p + p, and p once more: ∂/∂p = Σ_rows g ∘ x + Σ_rows g + 1.
    const x = Tensor.from(device, [1, 2, 3, 4], [2, 2]);
    const [p, one] = [tensor(2, 5), Tensor.from(device, [1, 1, 1, 1], [2, 2])];
    const tape = new Tape();
    tape.watch(p);
    scope(() => {
      const y = tape.run(() => scaleShift(x, p, p));
      tape.seed(y, one);
      tape.seed(p, tensor(1, 1));
      tape.backward();
    });
    const grad = tape.takeGradient(p);
    expect(await numbers(grad)).toEqual([1 + 3 + 2 + 1, 2 + 4 + 2 + 1]);
    dispose(x, p, one, grad);
  });
});

describe('saved tensors', () => {
  it('that were changed in place are noticed', () => {
    const [x, weight, one] = [tensor(1, 2), tensor(1, 1), tensor(1, 1)];
    const changed = (): Tensor => {
      const out = layerNorm(x, weight, weight);
      x.write([5, 6]);
      return out;
    };
    let error: unknown;
    scope(() => {
      try {
        gradients(changed, [weight], one);
      } catch (caught) {
        error = caught;
      }
    });
    expect(error).toBeInstanceOf(DisposedError);
    expect(error).toMatchObject({ code: 'SIDETUNE_MODIFIED', kernel: 'layerNorm', argument: 'x' });
    dispose(x, weight, one);
  });

  it('are not kept where no gradient is wanted', () => {
    const [x, y] = [tensor(1, 2), tensor(3, 4)];
    const tape = new Tape();
    scope(() => tape.run(() => void layerNorm(add(x, y), y, y)));
    expect(tape.report()).toEqual([]);
    dispose(x, y);
  });
});
