/**
 * Files that are either the old one or the new one, never half of each: written beside the target, flushed to the disk, renamed over it.
 */

import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, realpath, rename, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ArgumentError, FileError, SidetuneError } from '../errors';

/** One write call takes at most this much: Linux cuts longer ones at 2 GiB. */
const MAX_WRITE_BYTES = 1 << 30;

const REASONS = new Map([
  ['ENOENT', 'no such file'],
  ['EACCES', 'no permission'],
  ['EPERM', 'no permission'],
  ['EROFS', 'the file system is read-only'],
  ['ENOSPC', 'the disk is full'],
  ['EDQUOT', 'the disk quota is used up'],
  ['EFBIG', 'the file would be larger than the system allows'],
  ['EISDIR', 'it is a folder'],
  ['ENOTDIR', 'a part of the path is not a folder'],
  ['ENAMETOOLONG', 'the name is too long'],
  ['ELOOP', 'too many links on the way'],
  ['EMFILE', 'this process has too many files open'],
  ['ENFILE', 'the system has too many files open'],
  ['EIO', 'the disk reports a fault'],
]);

/** Directories that cannot be opened or flushed (network mounts, write-only folders): the rename holds all the same. */
const UNSYNCABLE = new Set(['EINVAL', 'ENOTSUP', 'EISDIR', 'EACCES', 'EPERM']);

function codeOf(error: unknown): string | undefined {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
}

/**
 * The {@link FileError} for a refusal of the system, in plain words: `'a.bin' could not be read: no such file`.
 * @param action - what was tried
 * @param path - the file, as the caller wrote it
 * @param cause - what the system call threw; its `code` (ENOENT, …) gives the words and goes into `got`
 */
export function fileError(action: 'read' | 'written', path: string, cause: unknown): FileError {
  const code = codeOf(cause);
  let reason = code === undefined ? undefined : REASONS.get(code);
  if (code === 'ENOENT' && action === 'written') reason = 'no such folder';
  reason ??= cause instanceof Error ? cause.message : String(cause);
  return new FileError(`'${path}' could not be ${action}: ${reason}`, { argument: 'path', got: code ?? reason, cause });
}

/** Where the bytes shall end up (links followed), and the rights of the file that is there now. */
async function findTarget(path: string): Promise<{ target: string; mode?: number }> {
  try {
    const target = await realpath(path);
    const found = await stat(target);
    if (!found.isFile()) {
      const kind = found.isDirectory() ? 'a folder' : 'no regular file';
      throw new FileError(`'${path}' could not be written: it is ${kind}`, { argument: 'path', got: kind });
    }
    return { target, mode: found.mode & 0o777 };
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return { target: path };
    throw error;
  }
}

async function writeAll(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let done = 0; done < chunk.byteLength; ) {
    const { bytesWritten } = await handle.write(chunk, done, Math.min(chunk.byteLength - done, MAX_WRITE_BYTES));
    if (bytesWritten === 0) throw new Error('the system took no more bytes');
    done += bytesWritten;
  }
}

async function syncDirectory(directory: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
    await handle.sync();
  } catch (error) {
    if (!UNSYNCABLE.has(codeOf(error) ?? '')) throw error;
  } finally {
    await handle?.close();
  }
}

/**
 * Writes a file whole or not at all.
 * The bytes go to a hidden temporary file `.sidetune-*.tmp` in the target's folder, reach the disk, and take the target's name in one step;
 * the folder is flushed last. Whoever opens `path` meanwhile sees the old file. A link is followed, an existing file's rights are kept.
 * @param path - the file to make or to replace; its folder must exist
 * @param chunks - the bytes in order; each chunk is on its way to the disk before the next one is asked for
 * @throws FileError (`SIDETUNE_FILE`), naming path and reason, with the system's or the generator's error as `cause`: the temporary file is
 * gone and the old target is as it was. Only if flushing the folder itself fails is the new file already in place. A SidetuneError thrown by
 * `chunks` arrives unchanged, after the same clean-up.
 */
export async function writeFileAtomic(
  path: string,
  chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<void> {
  let temporary: string | undefined;
  let handle: FileHandle | undefined;
  try {
    const { target, mode } = await findTarget(path);
    const directory = dirname(target);
    const candidate = join(directory, `.sidetune-${process.pid}-${randomBytes(8).toString('hex')}.tmp`);
    handle = await open(candidate, 'wx', mode ?? 0o666);
    temporary = candidate;
    // The umask may have cut the rights of the old file; a file system without rights refuses, and has none to keep.
    if (mode !== undefined) await handle.chmod(mode).catch(() => {});
    for await (const chunk of chunks) {
      if (!(chunk instanceof Uint8Array)) {
        throw new ArgumentError(`writeFileAtomic: 'chunks' gave ${typeof chunk}, expected Uint8Array`, {
          kernel: 'writeFileAtomic',
          argument: 'chunks',
          got: typeof chunk,
          expected: 'Uint8Array',
        });
      }
      await writeAll(handle, chunk);
    }
    await handle.sync();
    await handle.close();
    handle = undefined;
    await rename(temporary, target);
    temporary = undefined;
    await syncDirectory(directory);
  } catch (error) {
    await handle?.close().catch(() => {});
    if (temporary !== undefined) await unlink(temporary).catch(() => {});
    throw error instanceof SidetuneError ? error : fileError('written', path, error);
  }
}
