import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, link, mkdir, mkdtemp, open, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ArgumentError, FileError } from '../../lib/errors';
import { writeFileAtomic } from '../../lib/io/atomic';

// The system's own calls, unless a test sets up one refusal.
vi.mock('node:fs/promises', async (original) => {
  const actual = await original<typeof import('node:fs/promises')>();
  return { ...actual, open: vi.fn(actual.open), rename: vi.fn(actual.rename) };
});

let folder: string;
let target: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidetune-atomic-'));
  target = join(folder, 'weights.bin');
});

afterEach(async () => {
  vi.restoreAllMocks();
  await rm(folder, { recursive: true });
});

const bytes = (...values: number[]) => Uint8Array.from(values);
const systemError = (code: string) => Object.assign(new Error(`${code}: as the system says it`), { code });

/** Any open file's class, to make one of its calls fail. */
async function fileHandleClass() {
  const handle = await open(folder, 'r');
  await handle.close();
  return Object.getPrototypeOf(handle) as typeof handle;
}

/** What a refused write throws; fails if the write goes through. */
async function refusal(path: string, chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array> = [bytes(9)]) {
  const error = await writeFileAtomic(path, chunks).then(
    () => undefined,
    (reason) => reason,
  );
  expect(error).toBeInstanceOf(FileError);
  expect(error.code).toBe('SIDETUNE_FILE');
  expect(error.message).toContain(`'${path}'`);
  return error as FileError & { cause: Error & { code?: string } };
}

/** The old file is whole and alone in its folder. */
async function expectUntouched() {
  expect([...(await readFile(target))]).toEqual([1, 2, 3]);
  expect(await readdir(folder)).toEqual(['weights.bin']);
}

describe('writes', () => {
  test('the chunks in order, from an array, a generator and an async generator, empty ones too', async () => {
    await writeFileAtomic(target, [bytes(1, 2), bytes(), bytes(3)]);
    expect([...(await readFile(target))]).toEqual([1, 2, 3]);
    await writeFileAtomic(
      target,
      (function* () {
        yield bytes(4);
        yield Buffer.from([5, 6]);
      })(),
    );
    expect([...(await readFile(target))]).toEqual([4, 5, 6]);
    await writeFileAtomic(
      target,
      (async function* () {
        yield bytes(7).subarray(0, 1);
        yield bytes(0, 8, 0).subarray(1, 2);
      })(),
    );
    expect([...(await readFile(target))]).toEqual([7, 8]);
    await writeFileAtomic(target, []);
    expect((await stat(target)).size).toBe(0);
    expect(await readdir(folder)).toEqual(['weights.bin']);
  });

  test('a chunk that the system takes in pieces', async () => {
    const file = await fileHandleClass();
    const write = file.write;
    const spy = vi.spyOn(file, 'write').mockImplementation(function (this: typeof file, ...args: unknown[]) {
      const [chunk, from, count] = args as [Uint8Array, number, number];
      return Reflect.apply(write, this, [chunk, from, Math.min(count, 3)]) as never;
    });
    const data = Uint8Array.from({ length: 10 }, (_, index) => index);
    await writeFileAtomic(target, [data]);
    expect(spy).toHaveBeenCalledTimes(4);
    expect([...(await readFile(target))]).toEqual([...data]);
  });

  test('the old file can be read until the new one is whole', async () => {
    await writeFile(target, bytes(1, 2, 3));
    async function* watched() {
      yield bytes(4);
      expect([...(await readFile(target))]).toEqual([1, 2, 3]);
      expect(await readdir(folder)).toHaveLength(2);
      yield bytes(5);
    }
    await writeFileAtomic(target, watched());
    expect([...(await readFile(target))]).toEqual([4, 5]);
  });

  test('the bytes reach the disk before the name, and the folder after', async () => {
    const calls: string[] = [];
    const file = await fileHandleClass();
    const sync = file.sync;
    vi.spyOn(file, 'sync').mockImplementation(async function (this: typeof file) {
      calls.push((await this.stat()).isDirectory() ? 'sync folder' : `sync file, target ${existsSync(target)}`);
      return sync.call(this);
    });
    await writeFileAtomic(target, [bytes(1)]);
    expect(calls).toEqual(['sync file, target false', 'sync folder']);
  });

  test('a folder that cannot be flushed is no failure', async () => {
    const file = await fileHandleClass();
    const sync = file.sync;
    vi.spyOn(file, 'sync').mockImplementation(async function (this: typeof file) {
      if ((await this.stat()).isDirectory()) throw systemError('EINVAL');
      return sync.call(this);
    });
    await writeFileAtomic(target, [bytes(1)]);
    expect([...(await readFile(target))]).toEqual([1]);
  });

  test('rights are kept, links are followed, other names of the old file keep the old bytes', async () => {
    await writeFile(target, bytes(1, 2, 3));
    await chmod(target, 0o622);
    const alias = join(folder, 'alias.bin');
    const twin = join(folder, 'twin.bin');
    await symlink('weights.bin', alias);
    await link(target, twin);
    await writeFileAtomic(alias, [bytes(4)]);
    expect([...(await readFile(target))]).toEqual([4]);
    expect((await stat(target)).mode & 0o777).toBe(0o622);
    expect([...(await readFile(twin))]).toEqual([1, 2, 3]);
    expect((await readdir(folder)).sort()).toEqual(['alias.bin', 'twin.bin', 'weights.bin']);
  });

  test('two writers at once leave one whole file', async () => {
    const writer = (value: number) => writeFileAtomic(target, [bytes(value), bytes(value), bytes(value)]);
    await Promise.all([writer(1), writer(2), writer(3)]);
    const [first, ...rest] = await readFile(target);
    expect(rest).toEqual([first, first]);
    expect(await readdir(folder)).toEqual(['weights.bin']);
  });
});

describe('fails whole: the old file stays, nothing is left behind', () => {
  beforeEach(() => writeFile(target, bytes(1, 2, 3)));

  test('a generator that throws, before and after its first chunk', async () => {
    const trouble = new Error('no more numbers');
    for (const count of [0, 1, 5]) {
      let cleaned = false;
      async function* failing() {
        try {
          for (let index = 0; index < count; index++) yield new Uint8Array(1000);
          throw trouble;
        } finally {
          cleaned = true;
        }
      }
      const error = await refusal(target, failing());
      expect(error.cause).toBe(trouble);
      expect(error.message).toContain('no more numbers');
      expect(cleaned).toBe(true);
      await expectUntouched();
    }
  });

  test("sidetune's own errors arrive as they are", async () => {
    const own = new ArgumentError('a data function found a fault');
    async function* failing() {
      yield bytes(7);
      throw own;
    }
    await expect(writeFileAtomic(target, failing())).rejects.toBe(own);
    await expectUntouched();
  });

  test('a full disk, in the middle of a chunk; the generator is told to stop', async () => {
    const file = await fileHandleClass();
    const write = file.write;
    let room = 5;
    vi.spyOn(file, 'write').mockImplementation(function (this: typeof file, ...args: unknown[]) {
      const [chunk, from, count] = args as [Uint8Array, number, number];
      if (room === 0) return Promise.reject(systemError('ENOSPC')) as never;
      const taken = Math.min(count, room);
      room -= taken;
      return Reflect.apply(write, this, [chunk, from, taken]) as never;
    });
    let stopped = false;
    function* chunks() {
      try {
        for (;;) yield bytes(1, 2, 3, 4);
      } finally {
        stopped = true;
      }
    }
    const error = await refusal(target, chunks());
    expect(error.message).toContain('the disk is full');
    expect(error.got).toBe('ENOSPC');
    expect(error.cause.code).toBe('ENOSPC');
    expect(stopped).toBe(true);
    await expectUntouched();
  });

  test('a disk that takes nothing does not hold up the program', async () => {
    vi.spyOn(await fileHandleClass(), 'write').mockResolvedValue({ bytesWritten: 0, buffer: bytes() } as never);
    await refusal(target);
    await expectUntouched();
  });

  test('a disk that fails when it is flushed', async () => {
    vi.spyOn(await fileHandleClass(), 'sync').mockRejectedValue(systemError('EIO'));
    const error = await refusal(target);
    expect(error.message).toContain('the disk reports a fault');
    expect(error.cause.code).toBe('EIO');
    await expectUntouched();
  });

  test.each([
    ['EACCES', 'no permission'],
    ['EROFS', 'the file system is read-only'],
  ])('a folder that lets nobody write: %s', async (code, words) => {
    const cause = systemError(code);
    vi.mocked(open).mockRejectedValueOnce(cause);
    const error = await refusal(target);
    expect(error.message).toContain(words);
    expect(error.cause).toBe(cause);
    await expectUntouched();
  });

  test('a rename that is refused', async () => {
    const { rename } = await import('node:fs/promises');
    vi.mocked(rename).mockRejectedValueOnce(systemError('EPERM'));
    expect((await refusal(target)).message).toContain('no permission');
    await expectUntouched();
  });

  test('a target that becomes a folder while the bytes are written', async () => {
    const other = join(folder, 'other');
    async function* chunks() {
      yield bytes(1);
      await mkdir(other);
    }
    expect((await refusal(other, chunks())).message).toContain('it is a folder');
    expect((await readdir(folder)).sort()).toEqual(['other', 'weights.bin']);
  });

  test('a chunk that is no bytes', async () => {
    const wrong = writeFileAtomic(target, ['text'] as never);
    await expect(wrong).rejects.toThrow(ArgumentError);
    await expectUntouched();
  });
});

describe('places that take no file', () => {
  test('a folder that does not exist', async () => {
    const error = await refusal(join(folder, 'missing', 'weights.bin'));
    expect(error.message).toContain('no such folder');
    expect(error.cause.code).toBe('ENOENT');
  });

  test('a folder that is a file', async () => {
    await writeFile(target, bytes(1, 2, 3));
    const error = await refusal(join(target, 'weights.bin'));
    expect(error.message).toContain('a part of the path is not a folder');
    await expectUntouched();
  });

  test('a folder in place of the file, and a socket', async () => {
    expect((await refusal(folder)).message).toContain('it is a folder');
    expect(await readdir(folder)).toEqual([]);
    const server = createServer().listen(target);
    await once(server, 'listening');
    expect((await refusal(target)).message).toContain('it is no regular file');
    expect((await stat(target)).isSocket()).toBe(true);
    expect(await readdir(folder)).toEqual(['weights.bin']);
    server.close();
    await once(server, 'close');
  });

  test('a name that is too long, or that no system takes', async () => {
    expect((await refusal(join(folder, 'n'.repeat(300)))).message).toContain('the name is too long');
    await refusal(join(folder, 'a\0b'));
    expect(await readdir(folder)).toEqual([]);
  });
});
