/**
 * The header of a safetensors file: eight bytes of length (u64, little-endian), then JSON `{ name: { dtype, shape, data_offsets } }`, padded
 * with spaces, then the data that the offsets count from. The file may come from anyone, so the JSON is read by a reader that knows just this
 * form: it stops at the first thing that does not belong, sees names that come twice (which `JSON.parse` hides), and what it keeps is a small
 * multiple of the header's own bytes, however the header is built.
 * @see https://github.com/huggingface/safetensors, section Format
 */

import { isUtf8 } from 'node:buffer';
import { FormatError } from '../errors';

/** Bytes of one element. A file that uses another dtype is refused. */
export const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const;

/** A dtype in the spelling of the file format. */
export type SafetensorsDtype = keyof typeof DTYPE_BYTES;

/** The reference implementation's limit. */
export const MAX_HEADER_BYTES = 100_000_000;
export const MAX_NAMES = 1_000_000;
export const MAX_RANK = 32;
/** Bytes of the header's length, in front of the header. */
export const LENGTH_BYTES = 8;

const WHOLE = `a whole number from 0 to ${Number.MAX_SAFE_INTEGER}`;
const FIELDS = ['dtype', 'shape', 'data_offsets'];

/** What the header says of one tensor. */
export interface TensorInfo {
  readonly dtype: SafetensorsDtype;
  readonly shape: number[];
  /** Where its bytes start, counted from the start of the file. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

export interface Header {
  metadata: Record<string, string>;
  tensors: Map<string, TensorInfo>;
}

/** A text from the file, fit for a message: short, on one line. */
export function quote(text: string): string {
  return `'${JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text).slice(1, -1)}'`;
}

/** The sentence every fault of a file gets: path, tensor, field, byte, what was found, what was expected. */
export function formatError(
  path: string,
  at: { tensor?: string; field: string; byte?: number },
  got: string,
  expected: string,
): FormatError {
  const tensor = at.tensor === undefined ? '' : ` tensor ${quote(at.tensor)},`;
  const byte = at.byte === undefined ? '' : ` at byte ${at.byte}`;
  return new FormatError(`'${path}':${tensor} ${at.field}${byte}: found ${got}, expected ${expected}`, {
    argument: at.field,
    got,
    expected,
  });
}

/** Whether a string is `__proto__`, which turns into no key of a plain object, or no Unicode text, which no file can hold. */
export function isBadName(name: string): boolean {
  return name === '__proto__' || /\p{Surrogate}/u.test(name);
}

export function isDtype(text: unknown): text is SafetensorsDtype {
  return typeof text === 'string' && Object.hasOwn(DTYPE_BYTES, text);
}

/** Bytes of a tensor, or undefined if that is no exact number. Zeros count as ones, so that no dimension escapes the check. */
export function tensorBytes(dtype: SafetensorsDtype, shape: readonly number[]): number | undefined {
  const bound = shape.reduce((product, size) => product * Math.max(size, 1), DTYPE_BYTES[dtype]);
  if (!Number.isSafeInteger(bound)) return undefined;
  return shape.includes(0) ? 0 : bound;
}

/** How many bytes the header has, from the first eight of the file. */
export function headerLength(path: string, first: Buffer, fileBytes: number): number {
  const length = first.readBigUInt64LE(0);
  const room = fileBytes - LENGTH_BYTES;
  const at = { field: 'header length', byte: 0 };
  if (length < 2n) throw formatError(path, at, `${length}`, 'at least 2 (the header {})');
  if (length > BigInt(room))
    throw formatError(path, at, `${length}`, `at most ${room} (the file has ${fileBytes} bytes)`);
  if (length > BigInt(MAX_HEADER_BYTES)) throw formatError(path, at, `${length}`, `at most ${MAX_HEADER_BYTES}`);
  return Number(length);
}

/**
 * Reads and checks a header.
 * @param path - for messages
 * @param bytes - the header without its length
 * @param dataBytes - how many bytes follow the header: the tensors must fill them without hole or overlap
 * @throws FormatError
 */
export function parseHeader(path: string, bytes: Buffer, dataBytes: number): Header {
  if (!isUtf8(bytes)) throw formatError(path, { field: 'header', byte: LENGTH_BYTES }, 'other bytes', 'UTF-8 text');
  const header = new HeaderReader(path, bytes.toString('utf8'), LENGTH_BYTES + bytes.length).read();
  checkLayout(path, header.tensors, LENGTH_BYTES + bytes.length, dataBytes);
  return header;
}

/** The tensors, in the order of their bytes, must start where the one before ends and fill the data to the last byte. */
function checkLayout(path: string, tensors: Map<string, TensorInfo>, dataStart: number, dataBytes: number): void {
  const field = 'data_offsets';
  const sorted = [...tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength);
  let end = 0;
  let before = '';
  for (const [tensor, { byteOffset, byteLength }] of sorted) {
    const begin = byteOffset - dataStart;
    const at = { tensor, field };
    const got = `[${begin}, ${begin + byteLength}]`;
    if (begin + byteLength > dataBytes) {
      throw formatError(path, at, got, `an end of at most ${dataBytes} (bytes of data; is the file cut short?)`);
    }
    if (begin < end) throw formatError(path, at, `${got}, an overlap with ${quote(before)}`, `a start of ${end}`);
    if (begin > end)
      throw formatError(path, at, `${got}, a hole of ${begin - end} bytes before it`, `a start of ${end}`);
    end = begin + byteLength;
    before = tensor;
  }
  if (end !== dataBytes) {
    const at = { field: 'data', byte: dataStart + end };
    throw formatError(path, at, `${dataBytes - end} bytes that belong to no tensor`, 'the end of the file');
  }
}

class HeaderReader {
  readonly #path: string;
  readonly #text: string;
  readonly #dataStart: number;
  readonly #header: Header = { metadata: Object.create(null), tensors: new Map() };
  #at = 0;
  /** Where the last thing read starts: what a message points at. */
  #token = 0;
  #tensor: string | undefined;
  #field = 'header';

  constructor(path: string, text: string, dataStart: number) {
    this.#path = path;
    this.#text = text;
    this.#dataStart = dataStart;
  }

  read(): Header {
    if (this.#text[0] !== '{') throw this.#error(this.#found(), "'{'");
    this.#object((name) => {
      if (name === '__metadata__') this.#metadata();
      else this.#entry(name);
      this.#tensor = undefined;
      this.#field = 'header';
    });
    this.#skipSpace();
    if (this.#at < this.#text.length) throw this.#error(this.#found(), 'nothing but spaces after the last }');
    return this.#header;
  }

  #metadata(): void {
    this.#field = '__metadata__';
    this.#object((key) => {
      this.#header.metadata[key] = this.#string();
    });
  }

  #entry(tensor: string): void {
    this.#tensor = tensor;
    this.#field = 'entry';
    const fields: { dtype?: SafetensorsDtype; shape?: number[]; data_offsets?: number[] } = {};
    this.#object((key) => {
      if (!FIELDS.includes(key)) throw this.#error(`the field ${quote(key)}`, FIELDS.join(', '));
      this.#field = key;
      if (key === 'dtype') fields.dtype = this.#dtype();
      else if (key === 'shape') fields.shape = this.#wholeNumbers(0, MAX_RANK);
      else fields.data_offsets = this.#wholeNumbers(2, 2);
      this.#field = 'entry';
    });
    this.#field = FIELDS.find((field) => !Object.hasOwn(fields, field)) ?? 'data_offsets';
    const { dtype, shape, data_offsets: offsets } = fields;
    if (!dtype || !shape || !offsets) throw this.#error('nothing', `an entry with ${FIELDS.join(', ')}`);
    const [begin = 0, end = 0] = offsets;
    const byteLength = tensorBytes(dtype, shape);
    if (byteLength === undefined) {
      this.#field = 'shape';
      throw this.#error(`[${shape}]`, `at most ${Number.MAX_SAFE_INTEGER} bytes in all`);
    }
    if (end < begin) throw this.#error(`[${begin}, ${end}]`, 'an end that is not before the start');
    if (end - begin !== byteLength) {
      throw this.#error(`[${begin}, ${end}], ${end - begin} bytes`, `${byteLength} bytes (${dtype} [${shape}])`);
    }
    this.#header.tensors.set(tensor, { dtype, shape, byteOffset: this.#dataStart + begin, byteLength });
  }

  #object(member: (key: string) => void): void {
    this.#expect('{');
    if (this.#take('}')) return;
    const seen = new Set<string>();
    do {
      const key = this.#string();
      if (seen.has(key)) throw this.#error(`${quote(key)} twice`, 'each name once');
      if (isBadName(key)) throw this.#error(`the name ${quote(key)}`, 'Unicode text other than __proto__');
      seen.add(key);
      if (seen.size > MAX_NAMES) throw this.#error(`more than ${MAX_NAMES} names`, `at most ${MAX_NAMES}`);
      this.#expect(':');
      member(key);
    } while (this.#take(','));
    this.#expect('}');
  }

  #dtype(): SafetensorsDtype {
    const dtype = this.#string();
    if (isDtype(dtype)) return dtype;
    throw this.#error(quote(dtype), `one of ${Object.keys(DTYPE_BYTES).join(', ')}`);
  }

  #wholeNumbers(least: number, most: number): number[] {
    const numbers: number[] = [];
    this.#expect('[');
    if (!this.#take(']')) {
      do {
        if (numbers.length === most) throw this.#error(`more than ${most} numbers`, `at most ${most}`);
        numbers.push(this.#wholeNumber());
      } while (this.#take(','));
      this.#expect(']');
    }
    if (numbers.length < least) throw this.#error(`[${numbers}]`, `${least} numbers`);
    return numbers;
  }

  #wholeNumber(): number {
    this.#skipSpace();
    const token = /^[-+.\w]+/.exec(this.#text.slice(this.#at, this.#at + 32))?.[0] ?? '';
    const value = Number(token);
    if (!/^(0|[1-9][0-9]*)$/.test(token) || !Number.isSafeInteger(value)) {
      throw this.#error(token || this.#found(), WHOLE);
    }
    this.#at += token.length;
    return value;
  }

  #string(): string {
    this.#skipSpace();
    if (this.#text[this.#at] !== '"') throw this.#error(this.#found(), 'a string');
    let end = this.#at + 1;
    while (end < this.#text.length && this.#text[end] !== '"') end += this.#text[end] === '\\' ? 2 : 1;
    if (end >= this.#text.length) throw this.#error('the end of the header', 'the end of a string');
    const literal = this.#text.slice(this.#at, end + 1);
    let value = '';
    try {
      value = JSON.parse(literal);
    } catch {
      throw this.#error(quote(literal), 'a JSON string');
    }
    this.#at = end + 1;
    return value;
  }

  #expect(mark: string): void {
    if (!this.#take(mark)) throw this.#error(this.#found(), `'${mark}'`);
  }

  #take(mark: string): boolean {
    this.#skipSpace();
    if (this.#text[this.#at] !== mark) return false;
    this.#at += 1;
    return true;
  }

  #skipSpace(): void {
    while (' \n\r\t'.includes(this.#text[this.#at] ?? 'end')) this.#at += 1;
    this.#token = this.#at;
  }

  #found(): string {
    return this.#at < this.#text.length ? quote(this.#text.slice(this.#at, this.#at + 24)) : 'the end of the header';
  }

  #error(got: string, expected: string): FormatError {
    const byte = LENGTH_BYTES + Buffer.byteLength(this.#text.slice(0, this.#token));
    return formatError(this.#path, { tensor: this.#tensor, field: this.#field, byte }, got, expected);
  }
}
