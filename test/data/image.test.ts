import { join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, it, vi } from 'vitest';
import { decodeImage, readImage } from '../../lib/data';
import { ArgumentError, FileError, FormatError } from '../../lib/errors';
import { patterned, plain, put, tempFolder } from './temp_images';

const folder = tempFolder();
const pixelsOf = (image: Uint8Array) =>
  Array.from({ length: image.length / 3 }, (_, i) => [...image.subarray(i * 3, i * 3 + 3)]);

/** What an interrupted copy leaves. */
const firstPart = (bytes: Buffer) => bytes.subarray(0, Math.floor(bytes.length * 0.6));

/** The checksum of PNG chunks. */
function crc32(bytes: Buffer): number {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return ~crc >>> 0;
}

describe('readImage', () => {
  it.each(['png', 'jpeg', 'webp', 'gif', 'avif', 'tiff'] as const)('reads %s', async (format) => {
    const path = put(folder, `sound.${format}`, await plain([200, 30, 90], { format }));
    const image = await readImage(path, { size: 4 });
    expect(image.length).toBe(48);
    for (const [r, g, b] of pixelsOf(image)) {
      // Lossy formats and palettes may be a few levels off.
      expect(Math.abs(r! - 200) + Math.abs(g! - 30) + Math.abs(b! - 90)).toBeLessThan(12);
    }
  });

  it('gives the very pixels of a PNG of the right size', async () => {
    const pixels = Uint8Array.from({ length: 5 * 5 * 3 }, (_, i) => i * 3);
    const png = await sharp(pixels, { raw: { width: 5, height: 5, channels: 3 } })
      .png()
      .toBuffer();
    expect(await readImage(put(folder, 'exact.png', png), { size: 5 })).toEqual(pixels);
  });

  it('names a missing file, a folder, and the reason', async () => {
    const missing = join(folder, 'nowhere.png');
    await expect(readImage(missing, { size: 4 })).rejects.toThrow(FileError);
    await expect(readImage(missing, { size: 4 })).rejects.toMatchObject({
      code: 'SIDETUNE_FILE',
      message: expect.stringContaining(missing),
    });
    await expect(readImage(folder, { size: 4 })).rejects.toThrow(FileError);
  });

  it.each<[string, () => Promise<Buffer>, string]>([
    ['empty.png', async () => Buffer.alloc(0), 'empty'],
    ['text.png', async () => Buffer.from('this is no picture, it only says so'), 'unsupported image format'],
    ['cut.png', async () => firstPart(await patterned('png')), 'cannot be decoded'],
    ['cut.jpg', async () => firstPart(await patterned('jpeg')), 'cannot be decoded'],
    ['cut.webp', async () => firstPart(await patterned('webp')), 'cannot be decoded'],
    ['cut.tiff', async () => firstPart(await patterned('tiff')), 'cannot be decoded'],
    ['cut.gif', async () => firstPart(await patterned('gif')), 'cannot be decoded'],
    ['cut.avif', async () => firstPart(await patterned('avif')), 'cannot be decoded'],
  ])('refuses %s with a FormatError that names it', async (name, make, reason) => {
    const path = put(folder, name, await make());
    const failure = readImage(path, { size: 8 });
    await expect(failure).rejects.toThrow(FormatError);
    await expect(failure).rejects.toMatchObject({ code: 'SIDETUNE_FORMAT', message: expect.stringContaining(path) });
    await expect(failure).rejects.toThrow(reason);
  });

  it('refuses a damaged body', async () => {
    const png = await patterned('png');
    png.fill(0x55, 200, 400);
    await expect(readImage(put(folder, 'damaged.png', png), { size: 8 })).rejects.toThrow(FormatError);
  });

  it('refuses a header that claims a huge picture before it takes the memory', async () => {
    const png = await plain([1, 2, 3]);
    png.writeUInt32BE(60000, 16);
    png.writeUInt32BE(60000, 20);
    // The header's checksum is right, so nothing but the size can be the reason.
    png.writeUInt32BE(crc32(png.subarray(12, 29)), 29);
    const before = process.memoryUsage().rss;
    const attempt = readImage(put(folder, 'bomb.png', png), { size: 8 });
    await expect(attempt).rejects.toThrow(FormatError);
    await expect(attempt).rejects.toThrow('exceeds pixel limit');
    expect(process.memoryUsage().rss - before).toBeLessThan(200e6);
  });

  it('refuses bad options by name', async () => {
    const path = put(folder, 'options.png', await plain([1, 2, 3]));
    await expect(readImage(path, { size: 0 })).rejects.toThrow("'size' is 0");
    await expect(readImage(path, { size: 4, background: [0, 0, 256] })).rejects.toThrow(ArgumentError);
    await expect(readImage(path, { size: 4, colour: 3 } as never)).rejects.toThrow("unknown option 'colour'");
  });
});

describe('decodeImage', () => {
  const half = { r: 255, g: 0, b: 0, alpha: 0.5 };
  const clear = { r: 10, g: 20, b: 30, alpha: 0 };
  const transparent = (background: { r: number; g: number; b: number; alpha: number }) =>
    sharp({ create: { width: 3, height: 3, channels: 4, background } })
      .png()
      .toBuffer();

  it('lays transparent parts on white, or on another colour', async () => {
    expect([...(await decodeImage(await transparent(clear), { size: 3 }))]).toEqual(new Array(27).fill(255));
    const onBlue = await decodeImage(await transparent(clear), { size: 3, background: [0, 0, 200] });
    expect(pixelsOf(onBlue)[4]).toEqual([0, 0, 200]);
    const [r, g, b] = pixelsOf(await decodeImage(await transparent(half), { size: 3 }))[0]!;
    expect(r).toBe(255);
    expect(Math.abs(g! - 127)).toBeLessThanOrEqual(1);
    expect(b).toBe(g);
  });

  it('makes three channels of grey, of grey with alpha, of 16 bits and of CMYK', async () => {
    const grey = await sharp(await plain([90, 90, 90]))
      .toColourspace('b-w')
      .png()
      .toBuffer();
    expect(new Set(await decodeImage(grey, { size: 2 }))).toEqual(new Set([90]));
    const greyAlpha = await sharp(await transparent(clear))
      .toColourspace('b-w')
      .png()
      .toBuffer();
    expect(new Set(await decodeImage(greyAlpha, { size: 2 }))).toEqual(new Set([255]));
    const deep = await sharp(await plain([200, 100, 50]))
      .toColourspace('rgb16')
      .png()
      .toBuffer();
    expect((await sharp(deep).metadata()).depth).toBe('ushort');
    expect(pixelsOf(await decodeImage(deep, { size: 2 }))[0]).toEqual([200, 100, 50]);
    const cmyk = await sharp(await plain([255, 255, 255]))
      .toColourspace('cmyk')
      .jpeg()
      .toBuffer();
    expect((await sharp(cmyk).metadata()).channels).toBe(4);
    const fromCmyk = await decodeImage(cmyk, { size: 2 });
    expect(fromCmyk.length).toBe(12);
    expect(Math.min(...fromCmyk)).toBeGreaterThan(235);
  });

  it('takes the first picture of an animation and leaves the orientation alone', async () => {
    const frames = await sharp([await plain([0, 0, 255]), await plain([255, 0, 0])], { join: { animated: true } })
      .gif()
      .toBuffer();
    expect((await sharp(frames).metadata()).pages).toBe(2);
    expect(pixelsOf(await decodeImage(frames, { size: 2 }))[0]).toEqual([0, 0, 255]);
    const pixels = Uint8Array.from([255, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0, 255]);
    const raw = { raw: { width: 2, height: 2, channels: 3 as const } };
    const turned = await sharp(pixels, raw).withMetadata({ orientation: 6 }).png().toBuffer();
    expect([...(await decodeImage(turned, { size: 2 }))]).toEqual([...pixels]);
  });

  it('calls the image by the name it is given', async () => {
    await expect(decodeImage(Buffer.from('no'), { size: 2 }, 'upload 7')).rejects.toThrow('upload 7:');
  });
});

describe('without sharp', () => {
  it('the library loads and works, and the first image says what is missing', async () => {
    vi.resetModules();
    vi.doMock('sharp', () => {
      throw new Error('no binary for this machine');
    });
    try {
      const data = await import('../../lib/data/index.js');
      expect(data.normalizeImages(new Uint8Array(12), 2)[0]).toBe(-1);
      const attempt = data.decodeImage(Buffer.from('x'), { size: 2 });
      await expect(attempt).rejects.toMatchObject({
        code: 'SIDETUNE_DEPENDENCY',
        message: expect.stringContaining("'sharp'"),
      });
    } finally {
      vi.doUnmock('sharp');
      vi.resetModules();
    }
  });
});
