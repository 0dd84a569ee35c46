import { execFileSync } from 'node:child_process';
import { appendFile, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ArgumentError, DisposedError, DtypeError, FileError, MemoryError, ShapeError } from '../../lib/errors';
import {
  bf16ToFloat32,
  float16ToFloat32,
  float32ToBf16,
  openSafetensors,
  type TensorToWrite,
  writeSafetensors,
} from '../../lib/io/safetensors';

const GOLDEN = join(__dirname, '..', 'fixtures', 'goldens', 'layer_norm_3x17x24.safetensors');

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidetune-safetensors-'));
  path = join(folder, 'weights.safetensors');
});

afterEach(async () => {
  vi.unstubAllGlobals();
  await rm(folder, { recursive: true });
});

const f32 = (...values: number[]) => Float32Array.from(values);

/** One tensor of every dtype, none in the order of the file, and the shapes that are easy to get wrong: [], a zero, many ones. */
const EVERY_DTYPE: TensorToWrite[] = [
  { name: 'bool', dtype: 'BOOL', shape: [3], data: Uint8Array.of(1, 0, 1) },
  { name: 'u8', dtype: 'U8', shape: [2, 1], data: Uint8Array.of(0, 255) },
  { name: 'i8', dtype: 'I8', shape: [1], data: Int8Array.of(-128) },
  { name: 'f8a', dtype: 'F8_E4M3', shape: [1], data: Uint8Array.of(0x38) },
  { name: 'f8b', dtype: 'F8_E5M2', shape: [1], data: Uint8Array.of(0x3c) },
  { name: 'u16', dtype: 'U16', shape: [1], data: Uint16Array.of(65535) },
  { name: 'i16', dtype: 'I16', shape: [1], data: Int16Array.of(-32768) },
  { name: 'f16', dtype: 'F16', shape: [2], data: Uint16Array.of(0x3c00, 0xc000) },
  { name: 'bf16', dtype: 'BF16', shape: [1, 1, 2], data: Uint16Array.of(0x3f80, 0xc040) },
  { name: 'u32', dtype: 'U32', shape: [1], data: Uint32Array.of(0xffffffff) },
  { name: 'i32', dtype: 'I32', shape: [], data: Int32Array.of(-7) },
  { name: 'f32', dtype: 'F32', shape: [2, 2], data: f32(1, -0, Number.NaN, 1e-42) },
  { name: 'u64', dtype: 'U64', shape: [1], data: BigUint64Array.of(2n ** 64n - 1n) },
  { name: 'i64', dtype: 'I64', shape: [2], data: BigInt64Array.of(-(2n ** 31n), 2n ** 31n - 1n) },
  { name: 'f64', dtype: 'F64', shape: [3], data: Float64Array.of(1 / 3, 1e300, -2) },
  { name: 'empty', dtype: 'F32', shape: [0, 5], data: f32() },
  { name: 'Größe 🌱 "quoted"\n', dtype: 'U8', shape: [], data: () => Promise.resolve(Uint8Array.of(42)) },
];

const bytesOf = (view: ArrayBufferView) => Buffer.from(view.buffer, view.byteOffset, view.byteLength);
const dataOf = async (tensor: TensorToWrite) => (typeof tensor.data === 'function' ? await tensor.data() : tensor.data);

interface JsonEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** A reader beside ours: trusts the file, uses JSON.parse. */
async function parse(file: string) {
  const whole = await readFile(file);
  const length = Number(whole.readBigUInt64LE(0));
  return {
    whole,
    length,
    header: JSON.parse(whole.subarray(8, 8 + length).toString()),
    data: whole.subarray(8 + length),
  };
}

describe('the golden file, written by the reference implementation', () => {
  test('reads tensor by tensor', async () => {
    const { header, data } = await parse(GOLDEN);
    await using file = await openSafetensors(GOLDEN);
    expect(file.path).toBe(GOLDEN);
    expect(Object.keys(file.metadata)).toEqual([]);
    expect([...file.tensors.keys()]).toEqual(Object.keys(header));
    expect(file.tensors.get('in.x')).toEqual({ dtype: 'F32', shape: [3, 17, 24], byteOffset: 10736, byteLength: 4896 });
    for (const [name, { dtype, shape, data_offsets }] of Object.entries<JsonEntry>(header)) {
      const tensor = await file.read(name);
      expect({ dtype: tensor.dtype, shape: tensor.shape }).toEqual({ dtype, shape });
      expect(data.subarray(...data_offsets).equals(tensor.data)).toBe(true);
    }
    // Rows of (y − beta) / gamma are normalised, so their mean is 0: numbers read from a wrong place would show.
    const [y, gamma, beta] = await Promise.all(['out.y', 'in.gamma', 'in.beta'].map((name) => file.readFloat32(name)));
    const means = Array.from({ length: 51 }, (_, row) =>
      gamma!.reduce((sum, scale, column) => sum + (y![row * 24 + column]! - beta![column]!) / scale, 0),
    );
    expect(Math.max(...means.map(Math.abs))).toBeLessThan(1e-3);
  });

  test('is written back byte for byte, whatever the order', async () => {
    await using file = await openSafetensors(GOLDEN);
    const names = [...file.tensors.keys()].reverse();
    const tensors = names.map((name) => ({
      name,
      ...file.tensors.get(name)!,
      data: async () => (await file.read(name)).data,
    }));
    await writeSafetensors(path, tensors);
    expect((await readFile(path)).equals(await readFile(GOLDEN))).toBe(true);
  });
});

describe('round trip', () => {
  test('every dtype, aligned, in the form the format asks for', async () => {
    await writeSafetensors(path, EVERY_DTYPE, { z: 'last', a: 'Grüße\n' });
    const { length, header } = await parse(path);
    expect(length % 8).toBe(0);
    expect(Object.keys(header)[0]).toBe('__metadata__');
    await using file = await openSafetensors(path);
    expect({ ...file.metadata }).toEqual({ a: 'Grüße\n', z: 'last' });
    expect(file.tensors.size).toBe(EVERY_DTYPE.length);
    for (const tensor of EVERY_DTYPE) {
      const { dtype, shape, data } = await file.read(tensor.name);
      const expected = bytesOf(await dataOf(tensor));
      expect({ dtype, shape }).toEqual({ dtype: tensor.dtype, shape: tensor.shape });
      expect(expected.equals(data)).toBe(true);
      const { byteOffset } = file.tensors.get(tensor.name)!;
      const unit = Math.max(1, ...[2, 4, 8].filter((size) => tensor.dtype.replace(/_.*/, '').endsWith(`${size * 8}`)));
      expect(byteOffset % unit).toBe(0);
    }
  });

  test('as f32 and as i32', async () => {
    await writeSafetensors(path, EVERY_DTYPE);
    await using file = await openSafetensors(path);
    expect(await file.readFloat32('f32')).toEqual(f32(1, -0, Number.NaN, 1e-42));
    expect(await file.readFloat32('bf16')).toEqual(f32(1, -3));
    expect(await file.readFloat32('f16')).toEqual(f32(1, -2));
    expect(await file.readFloat32('f64')).toEqual(f32(1 / 3, Number.POSITIVE_INFINITY, -2));
    expect(await file.readFloat32('empty')).toEqual(f32());
    expect(await file.readInt32('i32')).toEqual(Int32Array.of(-7));
    expect(await file.readInt32('i64')).toEqual(Int32Array.of(-(2 ** 31), 2 ** 31 - 1));
    expect(await file.readInt32('u8')).toEqual(Int32Array.of(0, 255));
  });

  test('same input, same bytes; other metadata, other bytes', async () => {
    const write = async (tensors: TensorToWrite[], metadata?: Record<string, string>) => {
      await writeSafetensors(path, tensors, metadata);
      return (await readFile(path)).toString('hex');
    };
    const first = await write(EVERY_DTYPE, { b: '1', a: '2' });
    expect(await write(EVERY_DTYPE, { b: '1', a: '2' })).toBe(first);
    expect(await write([...EVERY_DTYPE].reverse(), { a: '2', b: '1' })).toBe(first);
    expect(await write(EVERY_DTYPE, { b: '1', a: '3' })).not.toBe(first);
  });

  test('no tensors at all, and bytes in place of a typed array', async () => {
    await writeSafetensors(path, []);
    expect((await readFile(path)).toString('hex')).toBe(`0800000000000000${Buffer.from('{}      ').toString('hex')}`);
    await using none = await openSafetensors(path);
    expect(none.tensors.size).toBe(0);
    const inside = new Uint8Array(bytesOf(f32(9, 5, 9)).buffer, 4, 4);
    await writeSafetensors(path, [{ name: 'x', dtype: 'F32', shape: [1], data: inside }]);
    await using file = await openSafetensors(path);
    expect(await file.readFloat32('x')).toEqual(f32(5));
  });

  test('data functions are called one at a time, each after the bytes before are written', async () => {
    const calls: string[] = [];
    const size = 1000;
    const tensor = (name: string) => ({
      name,
      dtype: 'F32' as const,
      shape: [size],
      data: async () => {
        const [temporary] = (await readdir(folder)).filter((file) => file.endsWith('.tmp'));
        const written = (await readFile(join(folder, temporary!))).length;
        calls.push(`${name} after ${Math.floor(written / (4 * size))} tensors`);
        return new Float32Array(size).fill(1);
      },
    });
    await writeSafetensors(path, ['c', 'a', 'b'].map(tensor));
    expect(calls).toEqual(['a after 0 tensors', 'b after 1 tensors', 'c after 2 tensors']);
  });
});

describe('refuses to write, before the old file is touched', () => {
  const good = { name: 'x', dtype: 'F32' as const, shape: [2], data: f32(1, 2) };
  test.each<[string, object, new (message: string) => Error, string]>([
    [
      'too few numbers',
      { data: f32(1) },
      ArgumentError,
      "data of 'x' is 4 bytes, expected Float32Array of 8 bytes (F32 [2])",
    ],
    ['too many from a function', { data: async () => f32(1, 2, 3) }, ArgumentError, 'is 12 bytes'],
    ['as many bytes, other numbers', { data: Float64Array.of(1) }, ArgumentError, 'is Float64Array'],
    ['nothing', { data: async () => undefined }, ArgumentError, 'is undefined'],
    ['unknown dtype', { dtype: 'F4' }, DtypeError, "dtype of 'x' is 'F4'"],
    ['dtype of the prototype', { dtype: 'toString' }, DtypeError, "is 'toString'"],
    ['negative shape', { shape: [-2] }, ShapeError, "shape of 'x' is [-2]"],
    ['fractional shape', { shape: [0.5, 4] }, ShapeError, '[0.5, 4]'],
    ['NaN in shape', { shape: [Number.NaN] }, ShapeError, '[NaN]'],
    ['overflow', { shape: [2 ** 30, 2 ** 30] }, ShapeError, '[1073741824, 1073741824]'],
    ['too many dimensions', { shape: Array(33).fill(1) }, ShapeError, 'at most 32'],
    ['the name of the metadata', { name: '__metadata__' }, ArgumentError, '__metadata__'],
    ['__proto__', { name: '__proto__' }, ArgumentError, '__proto__'],
    ['half a character', { name: 'a\ud800' }, ArgumentError, '\\ud800'],
    ['a name twice', { name: 'y' }, ArgumentError, "'y' twice"],
  ])('%s', async (_, change, Kind, words) => {
    await writeSafetensors(path, [{ ...good, name: 'old' }]);
    const before = await readFile(path);
    const wrong = writeSafetensors(path, [
      { ...good, name: 'y' },
      { ...good, ...change },
    ] as TensorToWrite[]);
    await expect(wrong).rejects.toThrow(Kind);
    await expect(wrong).rejects.toThrow(words);
    expect((await readFile(path)).equals(before)).toBe(true);
    expect(await readdir(folder)).toEqual(['weights.safetensors']);
  });

  test('metadata that is no text, a folder that is not there', async () => {
    await expect(writeSafetensors(path, [], { a: 1 } as never)).rejects.toThrow(
      "metadata 'a' is number, expected a string",
    );
    await expect(writeSafetensors(path, [], { '\udc00': '' })).rejects.toThrow(ArgumentError);
    expect(await readdir(folder)).toEqual([]);
    await expect(writeSafetensors(join(folder, 'no', 'x'), [good])).rejects.toThrow(FileError);
  });

  test('a data function that fails', async () => {
    const cause = new Error('device lost');
    const failing = writeSafetensors(path, [{ ...good, data: () => Promise.reject(cause) }]);
    await expect(failing).rejects.toMatchObject({ code: 'SIDETUNE_FILE', cause });
    expect(await readdir(folder)).toEqual([]);
  });
});

describe('what cannot be read', () => {
  test('a file that is missing, a folder, a named pipe', async () => {
    const missing = openSafetensors(path);
    await expect(missing).rejects.toThrow(FileError);
    await expect(missing).rejects.toMatchObject({ code: 'SIDETUNE_FILE', cause: { code: 'ENOENT' } });
    await expect(missing).rejects.toThrow(`'${path}' could not be read: no such file`);
    await expect(openSafetensors(folder)).rejects.toThrow(`'${folder}' could not be read: it is a folder`);
    execFileSync('mkfifo', [path]);
    await expect(openSafetensors(path)).rejects.toThrow('it is no regular file');
  });

  test('a name that is not there, a dtype that does not fit, a number that does not fit', async () => {
    const wide = { name: 'wide', dtype: 'I64' as const, shape: [3], data: BigInt64Array.of(1n, 2n ** 31n, 0n) };
    await writeSafetensors(path, [...EVERY_DTYPE, wide]);
    await using file = await openSafetensors(path);
    const format = { code: 'SIDETUNE_FORMAT' };
    for (const name of ['nope', 'toString', '__metadata__']) {
      await expect(file.read(name)).rejects.toMatchObject(format);
      await expect(file.readFloat32(name)).rejects.toThrow(`'${path}': there is no tensor '${name}'`);
      await expect(file.readInt32(name)).rejects.toMatchObject(format);
    }
    await expect(file.readFloat32('i64')).rejects.toThrow("tensor 'i64', dtype: found I64, expected one of F32, BF16");
    await expect(file.readInt32('f32')).rejects.toThrow("tensor 'f32', dtype: found F32, expected one of I32, I64, U8");
    const byte = file.tensors.get('wide')!.byteOffset + 8;
    await expect(file.readInt32('wide')).rejects.toMatchObject(format);
    await expect(file.readInt32('wide')).rejects.toThrow(
      `'wide', element 1 at byte ${byte}: found 2147483648, expected at`,
    );
  });

  test('a closed file; closing waits for reads and may come twice', async () => {
    const file = await openSafetensors(GOLDEN);
    const [early] = await Promise.all([file.read('in.x'), Promise.resolve().then(() => file.tensors)]);
    expect(early.data.length).toBe(4896);
    await Promise.all([file.close(), file[Symbol.asyncDispose]()]);
    await expect(file.read('in.x')).rejects.toThrow(DisposedError);
  });

  test('a tensor that no buffer can hold', async () => {
    await writeSafetensors(path, [{ name: 'a', dtype: 'U8', shape: [12345], data: new Uint8Array(12345) }]);
    await using file = await openSafetensors(path);
    class Full {
      constructor() {
        throw new RangeError('Array buffer allocation failed');
      }
    }
    vi.stubGlobal('Uint8Array', Full);
    const full = await file.read('a').catch((error) => error);
    vi.unstubAllGlobals();
    expect(full).toBeInstanceOf(MemoryError);
    expect(full.message).toContain("tensor 'a' takes 12345 bytes");
    await appendFile(path, 'a byte more does not matter while open');
    expect((await file.read('a')).data.length).toBe(12345);
  });
});

describe('sixteen bits', () => {
  test('bf16: ties to even, infinities, NaN, denormals, and exact on the way back', () => {
    const bits = (...values: number[]) => new Float32Array(Uint32Array.from(values).buffer);
    const cases: [number, number][] = [
      [0x3f800000, 0x3f80],
      [0x3f808000, 0x3f80],
      [0x3f818000, 0x3f82],
      [0x3f808001, 0x3f81],
      [0x3f807fff, 0x3f80],
      [0x80000000, 0x8000],
      [0x00008000, 0x0000],
      [0x00018000, 0x0002],
      [0x7f7fffff, 0x7f80],
      [0xff800000, 0xff80],
      [0x7f800001, 0x7fc0],
      [0xffffffff, 0xffff],
    ];
    const rounded = float32ToBf16(bits(...cases.map(([input]) => input)));
    expect([...rounded].map((value) => value.toString(16))).toEqual(cases.map(([, output]) => output.toString(16)));
    const all = Uint16Array.from({ length: 65536 }, (_, index) => index);
    const back = float32ToBf16(bf16ToFloat32(all));
    const changed = all.filter((value) => back[value] !== value);
    expect(changed.every((value) => (value & 0x7fff) > 0x7f80 && (back[value]! & 0x7fff) > 0x7f80)).toBe(true);
    expect(float32ToBf16(new Float32Array(bits(0, 0x3f800000, 0).buffer, 4, 1))).toEqual(Uint16Array.of(0x3f80));
  });

  test('half precision: every pattern, by the definition', () => {
    const all = Uint16Array.from({ length: 65536 }, (_, index) => index);
    const expected = Array.from(all, (value) => {
      const sign = value & 0x8000 ? -1 : 1;
      const exponent = (value >> 10) & 31;
      const fraction = (value & 1023) / 1024;
      if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
      return sign * (exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15));
    });
    const actual = float16ToFloat32(all);
    expect(expected.findIndex((value, index) => !Object.is(value, actual[index]))).toBe(-1);
  });
});
