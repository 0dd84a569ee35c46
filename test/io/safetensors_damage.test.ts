import { mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { FormatError } from '../../lib/errors';
import { openSafetensors, type TensorToWrite, writeSafetensors } from '../../lib/io/safetensors';

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidetune-damage-'));
  path = join(folder, 'weights.safetensors');
});

afterEach(async () => {
  vi.restoreAllMocks();
  await rm(folder, { recursive: true });
});

const f32 = (...values: number[]) => Float32Array.from(values);

const tensors: TensorToWrite[] = [
  { name: 'a', dtype: 'F32', shape: [2, 1], data: f32(1, 2) },
  { name: 'b', dtype: 'BF16', shape: [3], data: Uint16Array.of(1, 2, 3) },
  { name: 'ü', dtype: 'U8', shape: [], data: Uint8Array.of(7) },
];

describe('any damage', () => {
  async function goodFile(): Promise<Buffer> {
    await writeSafetensors(path, tensors, { format: 'pt' });
    return readFile(path);
  }

  test('cut anywhere, or one byte longer', async () => {
    const good = await goodFile();
    const lengths = Array.from({ length: good.length }, (_, length) => length);
    for (const bytes of [
      ...lengths.map((length) => good.subarray(0, length)),
      Buffer.concat([good, Buffer.alloc(1)]),
    ]) {
      await writeFile(path, bytes);
      const damaged = openSafetensors(path);
      await expect(damaged).rejects.toBeInstanceOf(FormatError);
      await expect(damaged).rejects.toThrow(`'${path}':`);
    }
  });

  test('bytes changed, lost, doubled: it opens and all of it can be read, or it is a FormatError', {
    timeout: 60_000,
  }, async () => {
    const good = await goodFile();
    const headerEnd = 8 + Number(good.readBigUInt64LE(0));
    let seed = 12345;
    const random = (limit: number) => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return Math.floor((seed / 2 ** 32) * limit);
    };
    let refused = 0;
    for (let round = 0; round < 1000; round++) {
      let bytes = Buffer.from(good);
      for (let count = random(3); count >= 0; count--) {
        const at = random(Math.min(headerEnd, bytes.length));
        const kind = random(4);
        if (kind === 0) bytes[at] = random(256);
        else if (kind === 1) bytes[at] = '{}[]",:0129 \\-eu'.charCodeAt(random(16));
        else if (kind === 2) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random(4))]);
        else bytes = Buffer.concat([bytes.subarray(0, at + random(8)), bytes.subarray(at)]);
      }
      await writeFile(path, bytes);
      try {
        await using file = await openSafetensors(path);
        for (const [name, { byteLength }] of file.tensors) expect((await file.read(name)).data.length).toBe(byteLength);
      } catch (error) {
        if (!(error instanceof FormatError)) throw error;
        refused += 1;
      }
    }
    expect(refused).toBeGreaterThan(750);
    expect(refused).toBeLessThan(1000);
  });
});

describe('shrinks', () => {
  test('while it is open: the tensors still there can be read', async () => {
    await writeSafetensors(path, [
      { name: 'a', dtype: 'F32', shape: [2], data: f32(1, 2) },
      { name: 'b', dtype: 'F32', shape: [2], data: f32(3, 4) },
    ]);
    await using file = await openSafetensors(path);
    const { byteOffset } = file.tensors.get('b')!;
    await truncate(path, byteOffset + 4);
    expect(await file.readFloat32('a')).toEqual(f32(1, 2));
    const cut = file.readFloat32('b');
    await expect(cut).rejects.toMatchObject({ code: 'SIDETUNE_FORMAT' });
    await expect(cut).rejects.toThrow(
      `'${path}': tensor 'b', data at byte ${byteOffset}: found ${byteOffset + 4} bytes in the file, expected at least ${byteOffset + 8}`,
    );
  });

  test('during a read, after its size was asked', async () => {
    await writeSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [2], data: f32(1, 2) }]);
    await using file = await openSafetensors(path);
    const handle = await open(path);
    const read = vi.spyOn(Object.getPrototypeOf(handle), 'read').mockResolvedValue({ bytesRead: 0 });
    await expect(file.read('a')).rejects.toThrow("tensor 'a' at byte");
    await expect(file.read('a')).rejects.toMatchObject({ code: 'SIDETUNE_FORMAT' });
    read.mockRejectedValue(Object.assign(new Error('EIO: i/o error'), { code: 'EIO' }));
    await expect(file.read('a')).rejects.toMatchObject({ code: 'SIDETUNE_FILE', cause: { code: 'EIO' } });
    read.mockRestore();
    await handle.close();
  });

  test('between the question for its size and the header', async () => {
    await writeSafetensors(path, tensors);
    const handle = await open(path);
    vi.spyOn(Object.getPrototypeOf(handle), 'read').mockResolvedValue({ bytesRead: 0 });
    await handle.close();
    const shrunk = openSafetensors(path);
    await expect(shrunk).rejects.toThrow('header length at byte 0: found the end of the file, expected 8 more bytes');
    await expect(shrunk).rejects.toBeInstanceOf(FormatError);
  });
});
