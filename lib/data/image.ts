/**
 * Image files → RGB bytes. Decoding is sharp's (libvips), resizing is {@link resizeBicubic}. sharp is loaded at the first image, so the rest of
 * the library works without it.
 */
import { readFile } from 'node:fs/promises';
import type Sharp from 'sharp';
import { FileError, FormatError, SidetuneError } from '../errors';
import { fileError } from '../io/atomic';
import { checkInteger, checkOptions, refuse } from './arguments';
import { resizeBicubic } from './resize';

/** How an image becomes pixels. */
export interface ImageOptions {
  /** Side of the result in pixels. */
  size: number;
  /** Colour under transparent parts, RGB of 0 to 255. Default white. */
  background?: readonly [number, number, number];
}

/** More pixels than this are refused before they are decoded (Pillow's limit, too). */
const MAX_PIXELS = 178_956_970;

let loading: Promise<typeof Sharp> | undefined;

/** Loads sharp once. One libvips thread per image: several images are decoded at a time instead. */
function loadSharp(): Promise<typeof Sharp> {
  loading ??= import('sharp').then(
    ({ default: sharp }) => {
      sharp.concurrency(1);
      return sharp;
    },
    (cause: unknown) => {
      loading = undefined;
      throw new SidetuneError(
        'SIDETUNE_DEPENDENCY',
        `images need the package 'sharp', which did not load: ${reasonOf(cause)}`,
        { cause },
      );
    },
  );
  return loading;
}

function reasonOf(cause: unknown): string {
  const text = cause instanceof Error ? cause.message : String(cause);
  return text.replace(/\s*\n\s*/g, '; ').trim();
}

function checkImageOptions(kernel: string, options: ImageOptions): void {
  checkOptions(kernel, options, ['size', 'background']);
  checkInteger(kernel, 'size', options.size, { low: 1, high: 16384 });
  const { background } = options;
  if (background === undefined) return;
  const isByte = (level: unknown) => Number.isInteger(level) && (level as number) >= 0 && (level as number) <= 255;
  if (!Array.isArray(background) || background.length !== 3 || !background.every(isByte)) {
    throw refuse(kernel, 'background', background, '[red, green, blue], each an integer from 0 to 255');
  }
}

/**
 * Decodes the bytes of an image file (PNG, JPEG, WebP, GIF, AVIF, TIFF; of an animation the first picture), lays transparent parts on the
 * background and resizes to `size` × `size`; the ratio of the sides is not kept. As in the published pipelines, neither an EXIF orientation nor
 * an ICC profile is applied.
 * @param bytes - the file
 * @param options - see {@link ImageOptions}
 * @param name - what errors call the image; default 'image'
 * @returns [size, size, 3]
 * @throws FormatError if the bytes are no image, damaged, cut off, or too large; ArgumentError
 */
export async function decodeImage(bytes: Uint8Array, options: ImageOptions, name = 'image'): Promise<Uint8Array> {
  checkImageOptions('decodeImage', options);
  const [r, g, b] = options.background ?? [255, 255, 255];
  const sharp = await loadSharp();
  if (bytes.length === 0) {
    throw new FormatError(`${name}: the file is empty`, { kernel: 'decodeImage', argument: name, got: '0 bytes' });
  }
  let decoded: { data: Buffer; info: { width: number; height: number; channels: number } };
  try {
    decoded = await sharp(bytes, { failOn: 'error', limitInputPixels: MAX_PIXELS, ignoreIcc: true })
      .flatten({ background: { r, g, b } })
      .toColourspace('srgb')
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true });
  } catch (cause) {
    throw new FormatError(`${name}: cannot be decoded as an image: ${reasonOf(cause)}`, {
      kernel: 'decodeImage',
      argument: name,
      cause,
    });
  }
  const { width, height, channels } = decoded.info;
  if (channels !== 3) {
    throw new FormatError(`${name}: has ${channels} channels after conversion to RGB, expected 3`, {
      kernel: 'decodeImage',
      argument: name,
      got: String(channels),
      expected: '3',
    });
  }
  return resizeBicubic(decoded.data, { width, height }, { width: options.size, height: options.size });
}

/**
 * Reads an image file, see {@link decodeImage}.
 * @throws FileError if the file is missing or cannot be read, FormatError if it is no sound image; both name the path
 */
export async function readImage(path: string, options: ImageOptions): Promise<Uint8Array> {
  checkImageOptions('readImage', options);
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    throw fileError('read', path, cause);
  }
  return decodeImage(bytes, options, path);
}

/** What the system says when the fault lies with one file. Others (too many open files, a broken disk) are no reason to skip images. */
const FILE_FAULTS = new Set(['ENOENT', 'ENOTDIR', 'EISDIR', 'EACCES', 'EPERM', 'ELOOP', 'ENAMETOOLONG']);

/** Whether an error is about one image, so that `onBadImage: 'skip'` may go on, and not about the program or the machine. */
export function isBadImage(error: unknown): error is FileError | FormatError {
  if (error instanceof FormatError) return true;
  const code = error instanceof FileError ? (error.cause as NodeJS.ErrnoException | undefined)?.code : undefined;
  return code !== undefined && FILE_FAULTS.has(code);
}
