/**
 * Weights in safetensors files: read tensor by tensor from a file nobody trusts, written whole or not at all.
 * All numbers are little-endian, as is every machine sidetune runs on; tensors are dense and row-major.
 * @see https://github.com/huggingface/safetensors, section Format
 */

import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { ArgumentError, DisposedError, DtypeError, FileError, FormatError, MemoryError, ShapeError } from '../errors';
import { fileError, writeFileAtomic } from './atomic';
import { bf16ToFloat32, float16ToFloat32 } from './half';
import {
  DTYPE_BYTES,
  formatError,
  type Header,
  headerLength,
  isBadName,
  isDtype,
  LENGTH_BYTES,
  MAX_HEADER_BYTES,
  MAX_NAMES,
  MAX_RANK,
  parseHeader,
  quote,
  type SafetensorsDtype,
  type TensorInfo,
  tensorBytes,
} from './safetensors_header';

export { bf16ToFloat32, float16ToFloat32, float32ToBf16 } from './half';
export type { SafetensorsDtype, TensorInfo } from './safetensors_header';

/** One read call asks for at most this much: Linux cuts longer ones at 2 GiB. */
const MAX_READ_BYTES = 1 << 30;

/** A tensor as it lies in the file: `data` holds `shape`'s elements of `dtype`, starts at 0 of its own buffer and belongs to the caller. */
export interface RawTensor {
  dtype: SafetensorsDtype;
  shape: number[];
  data: Uint8Array<ArrayBuffer>;
}

/** A tensor for {@link writeSafetensors}. */
export interface TensorToWrite {
  name: string;
  dtype: SafetensorsDtype;
  /** Whole numbers, at most 32 of them; [] is a single number. */
  shape: readonly number[];
  /** The typed array of `dtype` (Float32Array for F32, Uint16Array for BF16 and F16, …) or its bytes as Uint8Array; or how to get it. */
  data: ArrayBufferView | (() => ArrayBufferView | Promise<ArrayBufferView>);
}

/** The typed arrays that hold a dtype; Uint8Array stands for bytes and goes with each. */
const VIEWS: Record<SafetensorsDtype, string> = {
  BOOL: 'Uint8Array',
  U8: 'Uint8Array',
  I8: 'Int8Array',
  F8_E4M3: 'Uint8Array',
  F8_E5M2: 'Uint8Array',
  U16: 'Uint16Array',
  I16: 'Int16Array',
  F16: 'Uint16Array',
  BF16: 'Uint16Array',
  U32: 'Uint32Array',
  I32: 'Int32Array',
  F32: 'Float32Array',
  U64: 'BigUint64Array',
  I64: 'BigInt64Array',
  F64: 'Float64Array',
};

/** Fills `into` from `position` on; a file that ends before is no longer the file that was opened. */
async function readExactly(handle: FileHandle, path: string, into: Uint8Array, position: number, field: string) {
  for (let done = 0; done < into.byteLength; ) {
    const wanted = Math.min(into.byteLength - done, MAX_READ_BYTES);
    const { bytesRead } = await handle.read(into, done, wanted, position + done);
    if (bytesRead === 0) {
      const at = { field, byte: position + done };
      throw formatError(path, at, 'the end of the file', `${into.byteLength - done} more bytes (it shrank while open)`);
    }
    done += bytesRead;
  }
}

/**
 * An open safetensors file. Holds the header; the data stays on disk until it is asked for, one tensor at a time.
 * Close it, or declare it with `await using`.
 */
export class SafetensorsFile {
  /** The path it was opened with. */
  readonly path: string;
  /** The file's `__metadata__`, without prototype; empty if the file has none. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Every tensor by name, in the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly #handle: FileHandle;
  #closing: Promise<void> | undefined;

  /** @internal Use {@link openSafetensors}. */
  constructor(path: string, handle: FileHandle, header: Header) {
    this.path = path;
    this.#handle = handle;
    this.metadata = header.metadata;
    this.tensors = header.tensors;
  }

  /**
   * The bytes of one tensor; nothing else of the file is read.
   * @throws FormatError if there is no such tensor or the file has shrunk since it was opened, FileError if the disk refuses,
   * MemoryError if there is no room, DisposedError after `close()`
   */
  async read(name: string): Promise<RawTensor> {
    const info = this.tensors.get(name);
    if (info === undefined)
      throw new FormatError(`'${this.path}': there is no tensor ${quote(name)}`, { argument: name });
    this.#checkOpen();
    const { dtype, shape, byteOffset, byteLength } = info;
    try {
      const { size } = await this.#handle.stat();
      if (size < byteOffset + byteLength) {
        const at = { tensor: name, field: 'data', byte: byteOffset };
        const got = `${size} bytes in the file`;
        throw formatError(this.path, at, got, `at least ${byteOffset + byteLength} (it shrank while open)`);
      }
      const data = allocate(this.path, name, byteLength);
      await readExactly(this.#handle, this.path, data, byteOffset, `tensor ${quote(name)}`);
      return { dtype, shape: [...shape], data };
    } catch (error) {
      if (error instanceof FormatError || error instanceof MemoryError) throw error;
      this.#checkOpen();
      throw fileError('read', this.path, error);
    }
  }

  /**
   * The numbers of an F32, BF16, F16 or F64 tensor. BF16 and F16 widen exactly, F64 rounds to nearest even (beyond 3.4e38: infinity).
   * @returns as many numbers as `shape` says, row-major
   * @throws FormatError if the tensor has another dtype, and as {@link read}
   */
  async readFloat32(name: string): Promise<Float32Array<ArrayBuffer>> {
    this.#checkDtype(name, ['F32', 'BF16', 'F16', 'F64']);
    const { dtype, data } = await this.read(name);
    if (dtype === 'BF16') return bf16ToFloat32(new Uint16Array(data.buffer));
    if (dtype === 'F16') return float16ToFloat32(new Uint16Array(data.buffer));
    if (dtype === 'F64') return new Float32Array(new Float64Array(data.buffer));
    return new Float32Array(data.buffer);
  }

  /**
   * The numbers of an I32, I64 or U8 tensor.
   * @returns as many numbers as `shape` says, row-major
   * @throws FormatError if the tensor has another dtype or an I64 number does not fit 32 bits, and as {@link read}
   */
  async readInt32(name: string): Promise<Int32Array<ArrayBuffer>> {
    this.#checkDtype(name, ['I32', 'I64', 'U8']);
    const { dtype, data } = await this.read(name);
    if (dtype === 'I32') return new Int32Array(data.buffer);
    if (dtype === 'U8') return new Int32Array(data);
    const wide = new BigInt64Array(data.buffer);
    const narrow = new Int32Array(wide.length);
    wide.forEach((value, index) => {
      narrow[index] = Number(value);
      if (BigInt(narrow[index]!) === value) return;
      const byte = this.tensors.get(name)!.byteOffset + index * DTYPE_BYTES.I64;
      throw formatError(this.path, { tensor: name, field: `element ${index}`, byte }, `${value}`, 'at most 32 bits');
    });
    return narrow;
  }

  /** Closes the file once reads under way are done. May be called twice. */
  close(): Promise<void> {
    this.#closing ??= this.#handle.close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) throw new DisposedError(`SafetensorsFile.read: '${this.path}' was closed`);
  }

  #checkDtype(name: string, accepted: SafetensorsDtype[]): void {
    const dtype = this.tensors.get(name)?.dtype;
    if (dtype === undefined || accepted.includes(dtype)) return;
    throw formatError(this.path, { tensor: name, field: 'dtype' }, dtype, `one of ${accepted.join(', ')}`);
  }
}

function allocate(path: string, name: string, bytes: number): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(bytes);
  } catch (cause) {
    const message = `'${path}': tensor ${quote(name)} takes ${bytes} bytes, more than this process can get in one piece`;
    throw new MemoryError(message, { argument: name, got: `${bytes}`, cause });
  }
}

/**
 * Opens a safetensors file and checks its whole header: lengths, names, dtypes, shapes, and that the tensors fill the data without hole or
 * overlap. Reads the header only, and takes no more memory than a small multiple of it.
 * @param path - the file
 * @throws FileError if it cannot be opened or read (missing, no permission, a folder), FormatError naming path, tensor, field and byte if it
 * is not a safetensors file to the letter
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  let handle: FileHandle | undefined;
  try {
    // Without O_NONBLOCK a named pipe would hold up the thread until someone writes to it.
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const found = await handle.stat();
    if (!found.isFile()) {
      const kind = found.isDirectory() ? 'a folder' : 'no regular file';
      throw new FileError(`'${path}' could not be read: it is ${kind}`, { argument: 'path', got: kind });
    }
    const field = 'header length';
    if (found.size < LENGTH_BYTES)
      throw formatError(path, { field, byte: 0 }, `${found.size} bytes in all`, 'at least 8');
    const first = Buffer.alloc(LENGTH_BYTES);
    await readExactly(handle, path, first, 0, field);
    const bytes = Buffer.alloc(headerLength(path, first, found.size));
    await readExactly(handle, path, bytes, LENGTH_BYTES, 'header');
    const header = parseHeader(path, bytes, found.size - LENGTH_BYTES - bytes.length);
    return new SafetensorsFile(path, handle, header);
  } catch (error) {
    await handle?.close().catch(() => {});
    throw error instanceof FormatError || error instanceof FileError ? error : fileError('read', path, error);
  }
}

/**
 * Writes a safetensors file, whole or not at all (see {@link writeFileAtomic}). Same tensors and metadata, in any order, give the same bytes:
 * tensors lie by falling element size, then by name (UTF-16), as the reference implementation lays them; every tensor is aligned to its
 * elements, the data to 8 bytes.
 * @param path - the file to make or to replace
 * @param tensors - checked before anything is written. A `data` function is called when its turn has come, after the bytes of the tensor
 * before are written, so a model on a device never lies in memory as a whole.
 * @param metadata - goes to `__metadata__`; left out of the file if empty
 * @throws ArgumentError, ShapeError or DtypeError for a tensor that cannot be written, FileError as {@link writeFileAtomic}; the old file
 * stays as it was
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const ordered = tensors
    .map((tensor) => ({ ...tensor, shape: [...tensor.shape], bytes: checkTensor(tensor) }))
    .sort((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || (a.name < b.name ? -1 : 1));
  const header = buildHeader(ordered, metadata);
  async function* chunks() {
    yield header;
    for (const tensor of ordered) yield await takeData(tensor, tensor.bytes);
  }
  await writeFileAtomic(path, chunks());
}

function refuse(argument: string, got: string, expected: string, Kind: typeof ArgumentError = ArgumentError): never {
  const message = `writeSafetensors: ${argument} is ${got}, expected ${expected}`;
  throw new Kind(message, { kernel: 'writeSafetensors', argument, got, expected });
}

function checkTensor({ name, dtype, shape }: TensorToWrite): number {
  if (typeof name !== 'string' || name === '__metadata__' || isBadName(name)) {
    refuse('a name', quote(String(name)), 'Unicode text other than __metadata__ and __proto__');
  }
  if (!isDtype(dtype))
    refuse(`dtype of ${quote(name)}`, quote(String(dtype)), Object.keys(VIEWS).join(', '), DtypeError);
  const whole = shape.every((size) => Number.isSafeInteger(size) && size >= 0);
  const bytes = whole && shape.length <= MAX_RANK ? tensorBytes(dtype, shape) : undefined;
  const expected = `at most ${MAX_RANK} whole numbers from 0 whose product is exact`;
  return bytes ?? refuse(`shape of ${quote(name)}`, `[${shape.join(', ')}]`, expected, ShapeError);
}

function buildHeader(
  tensors: { name: string; dtype: SafetensorsDtype; shape: number[]; bytes: number }[],
  metadata: Readonly<Record<string, string>>,
): Buffer {
  const names = new Set<string>();
  const members: string[] = [];
  const keys = Object.keys(metadata).sort();
  for (const key of keys) {
    if (typeof metadata[key] !== 'string') refuse(`metadata ${quote(key)}`, typeof metadata[key], 'a string');
    if (isBadName(key)) refuse('a metadata name', quote(key), 'Unicode text other than __proto__');
  }
  if (keys.length > 0) {
    const pairs = keys.map((key) => `${JSON.stringify(key)}:${JSON.stringify(metadata[key])}`);
    members.push(`"__metadata__":{${pairs}}`);
  }
  let offset = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    if (names.has(name)) refuse('a name', `${quote(name)} twice`, 'each name once');
    names.add(name);
    const entry = { dtype, shape, data_offsets: [offset, offset + bytes] };
    members.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    offset += bytes;
  }
  if (Math.max(names.size, keys.length) >= MAX_NAMES)
    refuse('tensors', `${names.size}`, `fewer than ${MAX_NAMES} names`);
  const json = Buffer.from(`{${members}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  if (padded > MAX_HEADER_BYTES) refuse('the header', `${padded} bytes`, `at most ${MAX_HEADER_BYTES}`);
  const header = Buffer.alloc(LENGTH_BYTES + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded), 0);
  json.copy(header, LENGTH_BYTES);
  return header;
}

/** The bytes of a tensor, which must be as many as its shape says and of a kind that fits its dtype. */
async function takeData({ name, dtype, shape, data }: TensorToWrite, bytes: number): Promise<Uint8Array> {
  const view = typeof data === 'function' ? await data() : data;
  const kind = ArrayBuffer.isView(view) ? view.constructor.name : typeof view;
  const fits = view instanceof Uint8Array || kind === VIEWS[dtype];
  if (!fits || view.byteLength !== bytes) {
    const got = fits ? `${view.byteLength} bytes` : kind;
    refuse(`data of ${quote(name)}`, got, `${VIEWS[dtype]} of ${bytes} bytes (${dtype} [${shape.join(', ')}])`);
  }
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
