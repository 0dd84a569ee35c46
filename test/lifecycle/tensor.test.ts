/** A tensor's life: what works after dispose(), handles that share bytes, methods on what is no tensor. */

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device, Kind } from '../../lib/device';
import { ArgumentError, DisposedError, DtypeError, ShapeError, SidetuneError } from '../../lib/errors';
import { kernels } from '../../lib/kernels';
import { addon } from '../../lib/native';
import { layerNorm } from '../../lib/ops';
import { type DType, Tensor } from '../../lib/tensor';
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

describe('dispose', () => {
  it('twice is no error', () => {
    const tensor = Tensor.zeros(device, [4]);
    expect(tensor.disposed).toBe(false);
    tensor.dispose();
    tensor.dispose();
    expect(tensor.disposed).toBe(true);
    expect(device.memory().currentBytes).toBe(0);
  });

  it('comes at the end of a block with using', () => {
    let outside: Tensor;
    {
      using tensor = Tensor.zeros(device, [4]);
      outside = tensor;
    }
    expect(outside.disposed).toBe(true);
  });

  it('takes nothing away from what was queued or is being read', async () => {
    const tensor = Tensor.from(device, [1, 2, 3], [3]);
    const promise = tensor.read();
    tensor.dispose();
    const other = Tensor.from(device, [7, 8, 9], [3]); // the same block
    expect(await promise).toEqual(new Float32Array([1, 2, 3]));
    expect(await other.read()).toEqual(new Float32Array([7, 8, 9]));
    other.dispose();
  });
});

describe('use after dispose', () => {
  const uses: Record<string, (tensor: Tensor, other: Tensor) => unknown> = {
    shape: (tensor) => tensor.shape,
    dtype: (tensor) => tensor.dtype,
    layout: (tensor) => tensor.layout,
    bytes: (tensor) => tensor.bytes,
    kind: (tensor) => tensor.kind,
    size: (tensor) => tensor.size,
    address: (tensor) => tensor.address,
    version: (tensor) => tensor.version,
    'version, set': (tensor) => {
      tensor.version = 1;
    },
    alias: (tensor) => tensor.alias(),
    reshape: (tensor) => tensor.reshape([4]),
    part: (tensor) => tensor.part(1, 2),
    write: (tensor) => tensor.write([1, 2, 3, 4]),
    'copy from': (tensor, other) => tensor.copyFrom(other),
    'copy to': (tensor, other) => other.copyFrom(tensor),
    read: (tensor) => tensor.read(),
    readBytes: (tensor) => tensor.readBytes(),
    op: (tensor, other) => layerNorm(tensor, other, other),
    'second argument of an op': (tensor, other) => layerNorm(other, tensor, other),
  };

  it.each(Object.entries(uses))('%s', async (_name, use) => {
    for (const describedBefore of [false, true]) {
      const tensor = Tensor.zeros(device, [4]);
      const other = Tensor.zeros(device, [4]);
      if (describedBefore) expect(tensor.shape).toEqual([4]);
      tensor.dispose();
      const error = await Promise.resolve()
        .then(() => use(tensor, other))
        .then(
          () => null,
          (caught) => caught,
        );
      expect(error).toBeInstanceOf(DisposedError);
      expect(error.name).toBe('DisposedError');
      expect(error.code).toBe('SIDETUNE_DISPOSED');
      expect(error.message).toContain('was disposed');
      other.dispose();
    }
  });

  it('says which argument of which kernel', () => {
    const x = Tensor.zeros(device, [2, 4]);
    const weight = Tensor.zeros(device, [4]);
    weight.dispose();
    expect(() => kernels.layerNormForward({ x, weight, bias: weight })).toThrow(
      expect.objectContaining({
        message: "layerNormForward: 'weight' was disposed",
        kernel: 'layerNormForward',
        argument: 'weight',
      }),
    );
    x.dispose();
  });
});

describe('handles on the same bytes', () => {
  it('have one address and are counted once', async () => {
    const tensor = Tensor.from(device, [1, 2, 3, 4, 5, 6], [2, 3]);
    const alias = tensor.alias();
    const matrix = tensor.reshape([3, 2]);
    expect(new Set([tensor.address, alias.address, matrix.address]).size).toBe(1);
    expect(device.memory()).toMatchObject({ currentBytes: 24, blocks: 1 });
    expect([alias.shape, matrix.shape]).toEqual([
      [2, 3],
      [3, 2],
    ]);
    matrix.write([6, 5, 4, 3, 2, 1]);
    expect(await tensor.read()).toEqual(new Float32Array([6, 5, 4, 3, 2, 1]));
    expect([tensor.version, alias.version]).toEqual([matrix.version, matrix.version]);
    tensor.dispose();
    alias.dispose();
    expect(device.memory().currentBytes).toBe(24);
    expect(await matrix.read()).toEqual(new Float32Array([6, 5, 4, 3, 2, 1]));
    matrix.dispose();
    expect(device.memory().currentBytes).toBe(0);
  });

  it('may be a part of the first axis', async () => {
    const tensor = Tensor.from(device, [1, 2, 3, 4, 5, 6], [3, 2]);
    const part = tensor.part(1, 2);
    tensor.dispose();
    expect(part.shape).toEqual([2, 2]);
    expect(await part.read()).toEqual(new Float32Array([3, 4, 5, 6]));
    part.write([6, 5, 4, 3]);
    const last = part.part(1, 1);
    expect(await last.read()).toEqual(new Float32Array([4, 3]));
    for (const [first, count] of [
      [-1, 1],
      [0, 0],
      [1, 2],
      [Number.NaN, 1],
      [0, Number.POSITIVE_INFINITY],
      [0.5, 1],
      [0, 1.5],
    ] as const)
      expect(() => part.part(first, count), `${first} + ${count}`).toThrow(/entries, expected a part of \[2, 2\]/);
    part.dispose();
    last.dispose();
    expect(device.memory().currentBytes).toBe(0);
  });

  it('may not be written and read by one call', () => {
    const x = Tensor.zeros(device, [2, 4]);
    const alias = x.alias();
    const row = Tensor.zeros(device, [4]);
    expect(() => kernels.layerNormForward({ x, weight: row, bias: row, out: alias })).toThrow(
      "layerNormForward: 'out' overlaps 'x'",
    );
    for (const tensor of [x, alias, row]) tensor.dispose();
  });

  it('reshape keeps the number of numbers', () => {
    const tensor = Tensor.zeros(device, [2, 3]);
    expect(() => tensor.reshape([5])).toThrow("reshape: 'shape' is [5], expected as many numbers as [2, 3]");
    tensor.dispose();
  });
});

describe('making', () => {
  it.each([
    ['zero', [2, 0]],
    ['negative', [-1]],
    ['fraction', [1.5]],
    ['NaN', [Number.NaN]],
    ['too many dimensions', [1, 1, 1, 1, 1, 1, 1]],
    ['more numbers than there are bytes', [2 ** 40, 2 ** 40]],
    ['text', ['4'] as never],
    ['a number', 4 as never],
    ['missing', undefined as never],
  ])('shape: %s', (_name, shape) => {
    expect(() => Tensor.empty(device, shape)).toThrow(ShapeError);
    expect(() => Tensor.empty(device, shape)).toThrow(/Tensor: 'shape' is .*, expected an array of at most 6 whole/);
  });

  it('a tensor of no dimensions is one number', async () => {
    const tensor = Tensor.from(device, [5], []);
    expect([tensor.shape, tensor.size, tensor.bytes]).toEqual([[], 1, 4]);
    expect(await tensor.read()).toEqual(new Float32Array([5]));
    tensor.dispose();
  });

  it('every dtype comes back as it was written', async () => {
    const data = {
      f32: new Float32Array([1.5, -0, Number.POSITIVE_INFINITY]),
      i32: new Int32Array([1, -2, 2 ** 31 - 1]),
      u8: new Uint8Array([0, 7, 255]),
    };
    for (const [dtype, numbers] of Object.entries(data)) {
      const tensor = Tensor.from(device, numbers, [3]);
      expect(tensor.dtype).toBe(dtype);
      expect(await tensor.read()).toEqual(numbers);
      tensor.dispose();
    }
    const halves = Tensor.from(device, new Uint16Array([0x3f80, 0xc000, 0x7f80]), [3]);
    expect([halves.dtype, halves.bytes]).toEqual(['bf16', 6]);
    expect(await halves.read()).toEqual(new Float32Array([1, -2, Number.POSITIVE_INFINITY]));
    expect(await halves.readBytes()).toEqual(new Uint8Array([0x80, 0x3f, 0, 0xc0, 0x80, 0x7f]));
    halves.dispose();
  });

  it('data is copied at the call', async () => {
    const numbers = new Float32Array([1, 2]);
    const tensor = Tensor.from(device, numbers, [2]);
    numbers.fill(9);
    expect(await tensor.read()).toEqual(new Float32Array([1, 2]));
    tensor.dispose();
  });

  it.each([1, 65_536, 65_537, 300_001])('copies %d bytes, on one thread or several', async (size) => {
    const data = Uint8Array.from({ length: size }, (_, i) => (i * 7919) % 251);
    const tensor = Tensor.from(device, data, [size]);
    const copy = Tensor.zeros(device, [size], { dtype: 'u8' });
    copy.copyFrom(tensor);
    expect(Buffer.compare(Buffer.from((await copy.read()) as Uint8Array), Buffer.from(data))).toBe(0);
    tensor.dispose();
    copy.dispose();
  });

  it('refuses data that does not fit', () => {
    expect(() => Tensor.from(device, [1, 2, 3], [2])).toThrow(ShapeError);
    expect(() => Tensor.empty(device, [1], { dtype: 'f64' as DType })).toThrow(
      "Tensor: 'dtype' is 'f64', expected one of f32, bf16, i32, u8",
    );
    expect(() => Tensor.empty(device, [1], { kind: 'stuff' as Kind })).toThrow(ArgumentError);
    const tensor = Tensor.zeros(device, [4]);
    expect(() => tensor.write([1, 2, 3])).toThrow("write: 'data' has 12 bytes, expected 16 bytes");
    expect(() => tensor.copyFrom(null as never)).toThrow(TypeError);
    tensor.dispose();
    expect(device.memory().currentBytes).toBe(0);
  });

  it('counts bytes by kind', () => {
    const tensors = (['weights', 'side', 'optimizer'] as const).map((kind, index) =>
      Tensor.zeros(device, [index + 1], { kind }),
    );
    expect(device.memory().current).toMatchObject({ weights: 4, side: 8, optimizer: 12, activations: 0 });
    expect(tensors.map(({ kind }) => kind)).toEqual(['weights', 'side', 'optimizer']);
    for (const tensor of tensors) tensor.dispose();
  });

  it('packed weights are not to be read as numbers', async () => {
    const packed = Tensor.empty(device, [4, 4], { layout: 'packed' });
    await expect(packed.read()).rejects.toThrow(DtypeError);
    packed.dispose();
    expect(() => Tensor.empty(device, [4], { layout: 'packed' })).toThrow(ShapeError);
  });
});

describe('methods borrowed onto what is no tensor', () => {
  const methods = ['dispose', 'alias', 'reshape', 'write', 'copyFrom', 'read', 'readBytes'] as const;
  it.each(methods)('%s', async (method) => {
    const foreign = [
      {},
      { handle: {} },
      { handle: device.handle, device },
      Object.create(Tensor.prototype),
      [],
      device,
    ];
    for (const target of foreign) {
      const call = async (): Promise<unknown> => (Tensor.prototype[method] as () => unknown).call(target);
      await expect(call()).rejects.toSatisfy((error) => error instanceof TypeError || error instanceof SidetuneError);
    }
  });
});
