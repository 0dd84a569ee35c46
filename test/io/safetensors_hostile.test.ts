import { mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { FormatError } from '../../lib/errors';
import { openSafetensors, writeSafetensors } from '../../lib/io/safetensors';

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidetune-hostile-'));
  path = join(folder, 'weights.safetensors');
});

afterEach(async () => {
  vi.restoreAllMocks();
  await rm(folder, { recursive: true });
});

const f32 = (...values: number[]) => Float32Array.from(values);

/** The bytes of a file with this header, whatever it says, and so many bytes of data. */
function fileOf(header: string | Buffer, dataBytes = 0, length: bigint = BigInt(Buffer.byteLength(header))): Buffer {
  const first = Buffer.alloc(8);
  first.writeBigUInt64LE(length);
  return Buffer.concat([first, Buffer.from(header as string), Buffer.alloc(dataBytes)]);
}

/** The error that opening these bytes gives; they must not open, and no buffer larger than the file may be asked for. */
async function refusal(bytes: Buffer): Promise<FormatError> {
  await writeFile(path, bytes);
  const alloc = vi.spyOn(Buffer, 'alloc');
  const error = await openSafetensors(path).then(
    (file) => file.close(),
    (reason) => reason,
  );
  const largest = Math.max(0, ...alloc.mock.calls.map(([size]) => size));
  alloc.mockRestore();
  expect(error).toBeInstanceOf(FormatError);
  expect(error.code).toBe('SIDETUNE_FORMAT');
  expect(error.message.startsWith(`'${path}':`)).toBe(true);
  expect(error.message.length).toBeLessThan(600);
  expect(largest).toBeLessThanOrEqual(Math.max(bytes.length, 8));
  return error;
}

/** A header with one F32 tensor 'w' of 2 numbers, some of its fields changed. */
const entry = (change: object = {}) => ({ dtype: 'F32', shape: [2], data_offsets: [0, 8], ...change });
const one = (change: object = {}) => JSON.stringify({ w: entry(change) });

test('the file that the cases below change is itself good', async () => {
  for (const header of [
    one(),
    `${one()}   `,
    one().replaceAll(',', '\n\t, '),
    `{"__metadata__":{},"w":${JSON.stringify(entry())}}`,
  ]) {
    await writeFile(path, fileOf(header, 8));
    await using file = await openSafetensors(path);
    expect(await file.readFloat32('w')).toEqual(f32(0, 0));
  }
});

describe('header length', () => {
  const data = one();
  test.each<[string, Buffer, string]>([
    ['empty file', Buffer.alloc(0), 'header length at byte 0: found 0 bytes in all, expected at least 8'],
    ['seven bytes', Buffer.alloc(7), 'found 7 bytes in all'],
    ['zero', fileOf(data, 8, 0n), 'header length at byte 0: found 0, expected at least 2'],
    ['one', fileOf(data, 8, 1n), 'found 1, expected at least 2'],
    [
      'one more than the file',
      fileOf(data, 0, BigInt(data.length + 1)),
      `found ${data.length + 1}, expected at most ${data.length}`,
    ],
    ['2^53', fileOf(data, 8, 2n ** 53n), `found ${2n ** 53n}, expected at most ${data.length + 8}`],
    ['2^64 - 1', fileOf(data, 8, 2n ** 64n - 1n), `found ${2n ** 64n - 1n}`],
    ['shorter than the header', fileOf(data, 8, BigInt(data.length - 1)), 'found the end of the header'],
    ['longer, into the data', fileOf(data, 8, BigInt(data.length + 4)), "found '\\u0000"],
  ])('%s', async (_, bytes, words) => {
    expect((await refusal(bytes)).message).toContain(words);
  });

  test('beyond 100 MB, in a file that is larger still: nothing is read', async () => {
    await writeFile(path, fileOf(one(), 0, 150_000_000n));
    await truncate(path, 200_000_000);
    const alloc = vi.spyOn(Buffer, 'alloc');
    await expect(openSafetensors(path)).rejects.toThrow(
      'header length at byte 0: found 150000000, expected at most 100000000',
    );
    expect(alloc.mock.calls.map(([size]) => size)).toEqual([8]);
  });

  test('the writer keeps to the same limit', { timeout: 60_000 }, async () => {
    const wrong = writeSafetensors(path, [], { a: 'x'.repeat(1e8) });
    await expect(wrong).rejects.toMatchObject({ code: 'SIDETUNE_ARGUMENT' });
    await expect(wrong).rejects.toThrow('expected at most 100000000');
    expect(await readdir(folder)).toEqual([]);
  });
});

describe('header text', () => {
  const inner = JSON.stringify(entry());
  test.each<[string, string | Buffer, string]>([
    ['not UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), 'header at byte 8: found other bytes, expected UTF-8 text'],
    ['half a UTF-8 character', Buffer.concat([Buffer.from('{"'), Buffer.from([0xc3]), Buffer.from('":1}')]), 'UTF-8'],
    ['a byte order mark', `\ufeff${one()}`, "header at byte 8: found '\ufeff"],
    ['not JSON', 'weights!', "header at byte 8: found 'weights!', expected '{'"],
    ['an array', '[]', "found '[]', expected '{'"],
    ['null', 'null', "found 'null'"],
    ['space before the brace', ` ${one()}`, "expected '{'"],
    ['a pickle', '\u0080\u0002}q\u0000.', "expected '{'"],
    ['cut short', one().slice(0, -1), 'header at byte'],
    ['two headers', `${one()}{}`, `header at byte ${8 + one().length}: found '{}', expected nothing but spaces`],
    ['a comma too many', `{"w":${inner},}`, "found '}', expected a string"],
    ['no colon', `{"w" ${inner}}`, "expected ':'"],
    ['name without quotes', `{w:${inner}}`, 'expected a string'],
    ['name in single quotes', `{'w':${inner}}`, 'expected a string'],
    ['string without end', '{"w', 'expected the end of a string'],
    ['string ending in a backslash', '{"w\\', 'expected the end of a string'],
    ['line break in a string', `{"w\n":${inner}}`, 'expected a JSON string'],
    ['unknown escape', `{"\\x":${inner}}`, 'expected a JSON string'],
    [
      'the same name twice',
      `{"w":${inner},"w":${inner}}`,
      "header at byte 62: found 'w' twice, expected each name once",
    ],
    ['twice, once in disguise', `{"w":${inner},"\\u0077":${inner}}`, "found 'w' twice"],
    ['metadata twice', `{"__metadata__":{},"__metadata__":{},"w":${inner}}`, "'__metadata__' twice"],
    ['__proto__', `{"__proto__":${inner}}`, "found the name '__proto__'"],
    ['__proto__ in disguise', `{"\\u005f_proto__":${inner}}`, "found the name '__proto__'"],
    ['half a character', `{"\\ud800":${inner}}`, "found the name '\\ud800'"],
    ['a very long name', `{"${'n'.repeat(100_000)}":{}}`, `tensor '${'n'.repeat(80)}…'`],
    ['deep nesting', `{"w":${'['.repeat(1_000_000)}`, "tensor 'w', entry at byte 13: found '[[["],
    ['deep nesting of objects', `{"w":${'{"w":'.repeat(100_000)}`, "found the field 'w'"],
  ])('%s', async (_, header, words) => {
    expect((await refusal(fileOf(header, 8))).message).toContain(words);
  });

  test('more names than any model has', { timeout: 60_000 }, async () => {
    const names = Array.from({ length: 1_000_001 }, (_, index) => `"${index.toString(36)}":""`);
    const error = await refusal(fileOf(`{"__metadata__":{${names}}}`));
    expect(error.message).toContain('found more than 1000000 names');
  });
});

describe('metadata', () => {
  test.each<[string, unknown]>([
    ['null', null],
    ['text', 'pt'],
    ['an array', ['pt']],
    ['a number in it', { format: 1 }],
    ['null in it', { format: null }],
    ['an object in it', { format: {} }],
    ['true in it', { a: 'b', format: true }],
  ])('%s', async (_, metadata) => {
    const error = await refusal(fileOf(JSON.stringify({ __metadata__: metadata, w: entry() }), 8));
    expect(error.message).toContain('__metadata__ at byte');
    expect(error.argument).toBe('__metadata__');
  });

  test('a key twice, and __proto__', async () => {
    expect((await refusal(fileOf('{"__metadata__":{"a":"","a":""}}'))).message).toContain("'a' twice");
    expect((await refusal(fileOf('{"__metadata__":{"__proto__":""}}'))).message).toContain("the name '__proto__'");
  });
});

describe('entries', () => {
  const big = Number.MAX_SAFE_INTEGER;
  test.each<[string, string, string, string]>([
    ['a number', '{"w":1}', 'entry', "found '1}', expected '{'"],
    ['null', '{"w":null}', 'entry', "found 'null}'"],
    ['no dtype', one({ dtype: undefined }), 'dtype', 'found nothing'],
    ['no shape', one({ shape: undefined }), 'shape', 'found nothing'],
    ['no offsets', one({ data_offsets: undefined }), 'data_offsets', 'found nothing'],
    [
      'an unknown field',
      one({ strides: [1] }),
      'entry',
      "found the field 'strides', expected dtype, shape, data_offsets",
    ],
    ['a field twice', '{"w":{"dtype":"F32","dtype":"F64"}}', 'entry', "found 'dtype' twice"],
    ['unknown dtype', one({ dtype: 'F31' }), 'dtype', "found 'F31', expected one of BOOL, U8"],
    ['dtype in small letters', one({ dtype: 'f32' }), 'dtype', "found 'f32'"],
    ['dtype of the prototype', one({ dtype: 'constructor' }), 'dtype', "found 'constructor'"],
    ['dtype is a number', one({ dtype: 32 }), 'dtype', 'expected a string'],
    ['shape is a number', one({ shape: 2 }), 'shape', "found '2,"],
    ['shape is null', one({ shape: null }), 'shape', "expected '['"],
    ['negative', one({ shape: [-2] }), 'shape', `found -2, expected a whole number from 0 to ${big}`],
    ['two negatives', one({ shape: [-1, -2] }), 'shape', 'found -1'],
    ['minus zero', '{"w":{"shape":[-0]}}', 'shape', 'found -0'],
    ['fractional', one({ shape: [0.5, 4] }), 'shape', 'found 0.5'],
    ['whole, with a point', '{"w":{"shape":[2.0]}}', 'shape', 'found 2.0'],
    ['exponent', '{"w":{"shape":[2e0]}}', 'shape', 'found 2e0'],
    ['leading zero', '{"w":{"shape":[02]}}', 'shape', 'found 02'],
    ['hexadecimal', '{"w":{"shape":[0x2]}}', 'shape', 'found 0x2'],
    ['text', one({ shape: ['2'] }), 'shape', `found '\\"2\\"`],
    ['nested', one({ shape: [[2]] }), 'shape', "found '[2]"],
    ['NaN', '{"w":{"shape":[NaN]}}', 'shape', 'found NaN'],
    ['just too large', '{"w":{"shape":[9007199254740992]}}', 'shape', 'found 9007199254740992'],
    ['far too large', `{"w":{"shape":[${'9'.repeat(100_000)}]}}`, 'shape', `found ${'9'.repeat(32)},`],
    ['two numbers without comma', '{"w":{"shape":[2 2]}}', 'shape', "expected ']'"],
    ['product overflows', one({ shape: [2 ** 27, 2 ** 27] }), 'shape', 'found [134217728,134217728]'],
    ['bytes overflow', one({ shape: [2 ** 51] }), 'shape', 'found [2251799813685248]'],
    ['product wraps to the right size', one({ shape: [2 ** 32, 2 ** 32, 2] }), 'shape', 'bytes in all'],
    ['overflow hidden behind a zero', one({ shape: [0, big, big], data_offsets: [0, 0] }), 'shape', 'bytes in all'],
    ['too many dimensions', one({ shape: Array(33).fill(1) }), 'shape', 'found more than 32 numbers'],
    ['one offset', one({ data_offsets: [0] }), 'data_offsets', 'found [0], expected 2 numbers'],
    ['three offsets', one({ data_offsets: [0, 8, 16] }), 'data_offsets', 'found more than 2 numbers'],
    ['negative offset', one({ data_offsets: [-8, 0] }), 'data_offsets', 'found -8'],
    ['offsets reversed', one({ data_offsets: [8, 0] }), 'data_offsets', 'found [8, 0], expected an end'],
    [
      'too few bytes for the shape',
      one({ data_offsets: [0, 7] }),
      'data_offsets',
      'found [0, 7], 7 bytes, expected 8 bytes (F32 [2])',
    ],
    ['bytes of another dtype', one({ dtype: 'F64' }), 'data_offsets', 'expected 16 bytes (F64 [2])'],
    ['bytes for an empty shape', one({ shape: [2, 0] }), 'data_offsets', 'expected 0 bytes'],
    ['a scalar of two', one({ shape: [] }), 'data_offsets', 'expected 4 bytes (F32 [])'],
  ])('%s', async (_, header, field, words) => {
    const error = await refusal(fileOf(header, 8));
    expect(error.message).toMatch(new RegExp(`: tensor 'w', ${field} at byte [0-9]+: `));
    expect(error.message).toContain(words);
    expect(error.argument).toBe(field);
  });

  test('the byte in a message is the byte in the file, after names in other scripts too', async () => {
    const header = '{"größe":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}';
    const bytes = fileOf(header, 8);
    expect((await refusal(bytes)).message).toContain(`tensor 'größe', shape at byte ${bytes.indexOf('-1')}: found -1`);
  });
});

describe('layout', () => {
  const offsets = (...ranges: [number, number][]) =>
    JSON.stringify(
      Object.fromEntries(
        ranges.map(([begin, end], index) => [
          `t${index}`,
          { dtype: 'U8', shape: [end - begin], data_offsets: [begin, end] },
        ]),
      ),
    );
  const big = Number.MAX_SAFE_INTEGER;
  test.each<[string, string, string]>([
    ['one byte too far', offsets([0, 9]), "tensor 't0', data_offsets: found [0, 9], expected an end of at most 8"],
    ['far out', offsets([big - 8, big]), "tensor 't0', data_offsets: found"],
    ['an empty tensor far out', offsets([0, 8], [99, 99]), "tensor 't1', data_offsets: found [99, 99]"],
    [
      'overlap',
      offsets([0, 5], [4, 8]),
      "tensor 't1', data_offsets: found [4, 8], an overlap with 't0', expected a start of 5",
    ],
    ['the same bytes twice', offsets([0, 8], [0, 8]), "an overlap with 't0'"],
    ['one inside the other', offsets([2, 4], [0, 8]), "tensor 't0', data_offsets: found [2, 4], an overlap with 't1'"],
    ['an empty one inside another', offsets([0, 8], [4, 4]), "tensor 't1', data_offsets: found [4, 4], an overlap"],
    [
      'a hole',
      offsets([0, 3], [4, 8]),
      "tensor 't1', data_offsets: found [4, 8], a hole of 1 bytes before it, expected a start of 3",
    ],
    ['a hole at the start', offsets([1, 8]), 'a hole of 1 bytes'],
    ['bytes at the end', offsets([0, 7]), 'data at byte 69: found 1 bytes that belong to no tensor'],
    [
      'data, but no tensor',
      '{}',
      'data at byte 10: found 8 bytes that belong to no tensor, expected the end of the file',
    ],
  ])('%s', async (_, header, words) => {
    expect((await refusal(fileOf(header, 8))).message).toContain(words);
  });

  test('any order of the header and empty tensors between are good', async () => {
    await writeFile(path, fileOf(offsets([4, 8], [0, 0], [0, 4], [4, 4], [8, 8]), 8));
    await using file = await openSafetensors(path);
    expect([...file.tensors.values()].map(({ byteLength }) => byteLength)).toEqual([4, 0, 4, 0, 0]);
  });
});
