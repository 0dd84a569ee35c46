/** Small image files in a folder of their own, for the tests of lib/data. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { afterAll } from 'vitest';

export type Format = 'png' | 'jpeg' | 'webp' | 'gif' | 'avif' | 'tiff';
export type Rgb = readonly [number, number, number];

/** A new folder that goes when the test file ends. */
export function tempFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'sidetune-data-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Writes `bytes` to folder/name, making the folders between. */
export function put(folder: string, name: string, bytes: string | Uint8Array): string {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, bytes);
  return path;
}

/** An encoded image of one colour. */
export function plain(colour: Rgb, { width = 6, height = 6, format = 'png' as Format } = {}): Promise<Buffer> {
  const [r, g, b] = colour;
  return sharp({ create: { width, height, channels: 3, background: { r, g, b } } })
    .toFormat(format as keyof sharp.FormatEnum)
    .toBuffer();
}

/** An encoded image with structure, so that damage to it shows. */
export function patterned(format: Format, size = 64): Promise<Buffer> {
  const pixels = Uint8Array.from({ length: size * size * 3 }, (_, i) => (Math.imul(i, 0x9e3779b1) >>> 13) & 255);
  return sharp(pixels, { raw: { width: size, height: size, channels: 3 } })
    .toFormat(format as keyof sharp.FormatEnum)
    .toBuffer();
}
