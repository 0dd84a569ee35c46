import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type PixelSize, resizeBicubic } from '../../lib/data';
import { ArgumentError, ShapeError } from '../../lib/errors';

/** The images of test/fixtures/resize/make.py. */
const FORMULAS = {
  ramp: (x: number, y: number, c: number) => (3 * x + 5 * y + 80 * c) & 255,
  noise: (x: number, y: number, c: number) => {
    let h = (Math.imul(x, 374761393) + Math.imul(y, 668265263) + c * 362437) >>> 0;
    h = Math.imul(h ^ (h >>> 13), 1274126177) >>> 0;
    return (h ^ (h >>> 16)) & 255;
  },
};

function draw(name: keyof typeof FORMULAS, { width, height }: PixelSize): Uint8Array {
  const pixels = new Uint8Array(width * height * 3);
  for (let i = 0; i < pixels.length; i++) {
    const pixel = Math.floor(i / 3);
    pixels[i] = FORMULAS[name](pixel % width, Math.floor(pixel / width), i % 3);
  }
  return pixels;
}

interface Fixture {
  pillow: string;
  cases: { image: keyof typeof FORMULAS; from: PixelSize; to: PixelSize; pixels: string }[];
}
const fixture = JSON.parse(readFileSync(join(__dirname, '../fixtures/resize/pillow.json'), 'utf8')) as Fixture;

/** The same filter in plain float64, with nothing rounded between the passes; slow, and written without the code under test. */
function reference(pixels: Uint8Array, from: PixelSize, to: PixelSize): Float64Array {
  const keys = (x: number) => {
    const t = Math.abs(x);
    if (t >= 2) return 0;
    return t < 1 ? 1.5 * t ** 3 - 2.5 * t ** 2 + 1 : -0.5 * t ** 3 + 2.5 * t ** 2 - 4 * t + 2;
  };
  const matrix = (inLength: number, outLength: number) =>
    Array.from({ length: outLength }, (_, out) => {
      const ratio = inLength / outLength;
      const wide = Math.max(1, ratio);
      const row = Array.from({ length: inLength }, (_, i) => keys((i + 0.5 - (out + 0.5) * ratio) / wide));
      const sum = row.reduce((a, b) => a + b);
      return row.map((weight) => weight / sum);
    });
  const across = matrix(from.width, to.width);
  const down = matrix(from.height, to.height);
  const out = new Float64Array(to.width * to.height * 3);
  for (let y = 0; y < to.height; y++) {
    for (let x = 0; x < to.width; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        down[y]!.forEach((weightY, sy) => {
          if (weightY === 0) return;
          across[x]!.forEach((weightX, sx) => {
            sum += weightY * weightX * pixels[(sy * from.width + sx) * 3 + c]!;
          });
        });
        out[(y * to.width + x) * 3 + c] = Math.min(255, Math.max(0, sum));
      }
    }
  }
  return out;
}

describe('resizeBicubic', () => {
  it('has fixtures to compare with', () => {
    expect(fixture.cases.length).toBe(8);
    expect(fixture.pillow).toBe('12.3.0');
  });

  it.each(fixture.cases)('equals Pillow bit for bit: $image $from.width×$from.height → $to.width×$to.height', (one) => {
    const got = resizeBicubic(draw(one.image, one.from), one.from, one.to);
    expect(Buffer.from(got).equals(Buffer.from(one.pixels, 'base64'))).toBe(true);
  });

  it('agrees with hand-computed values', () => {
    // Two pixels to four: out pixel 0 is centred at 0.25, so its taps are pixels 0 and 1 at distances 0.25 and 1.25.
    // keys(0.25) = 1.5/64 − 2.5/16 + 1 = 0.8671875; keys(1.25) = −0.5·1.953125 + 2.5·1.5625 − 5 + 2 = −0.0703125; sum 0.796875.
    // Pixels 100 and 180: (0.8671875·100 − 0.0703125·180)/0.796875 = 92.94; mirrored, 187.06.
    // Out pixel 1, at 0.75: keys(0.25) = 0.8671875 and keys(0.75) = 0.6328125 − 1.40625 + 1 = 0.2265625; (86.71875 + 40.78125)/1.09375 = 116.57.
    const pixels = Uint8Array.from([100, 0, 255, 180, 0, 255]);
    const got = resizeBicubic(pixels, { width: 2, height: 1 }, { width: 4, height: 1 });
    expect([...got]).toEqual([93, 0, 255, 117, 0, 255, 163, 0, 255, 187, 0, 255]);
  });

  it('cuts overshoot to 0 … 255 instead of wrapping', () => {
    const step = Uint8Array.from([0, 0, 0, 255, 255, 255]);
    const got = resizeBicubic(step, { width: 2, height: 1 }, { width: 4, height: 1 });
    expect(got[0]).toBe(0);
    expect(got[9]).toBe(255);
  });

  it.each([
    [
      { width: 37, height: 23 },
      { width: 64, height: 64 },
    ],
    [
      { width: 90, height: 70 },
      { width: 16, height: 24 },
    ],
  ])('is within one level of a float64 reference: %o → %o', (from, to) => {
    // Noise overshoots between the passes, where 8 bits cut it; a ramp does not, so there the two roundings are all that differs.
    const pixels = draw('ramp', from).map((level) => 40 + (level >> 1));
    const got = resizeBicubic(pixels, from, to);
    const expected = reference(pixels, from, to);
    const worst = Math.max(...expected.map((value, i) => Math.abs(value - got[i]!)));
    expect(worst).toBeLessThanOrEqual(1.2);
    expect(worst).toBeGreaterThan(0);
  });

  it('leaves an image of the right size as it is, in a new array', () => {
    const from = { width: 31, height: 17 };
    const pixels = draw('noise', from);
    const got = resizeBicubic(pixels, from, from);
    expect(got).toEqual(pixels);
    expect(got).not.toBe(pixels);
  });

  it.each([0, 1, 128, 255])('keeps a constant image constant: %i', (level) => {
    const pixels = new Uint8Array(53 * 11 * 3).fill(level);
    const got = resizeBicubic(pixels, { width: 53, height: 11 }, { width: 19, height: 40 });
    expect(new Set(got)).toEqual(new Set([level]));
  });

  it('does not change its input', () => {
    const from = { width: 20, height: 20 };
    const pixels = draw('noise', from);
    resizeBicubic(pixels, from, { width: 7, height: 9 });
    expect(pixels).toEqual(draw('noise', from));
  });

  it('refuses bad sizes by name', () => {
    const to = { width: 4, height: 4 };
    expect(() => resizeBicubic(new Uint8Array(11), { width: 2, height: 2 }, to)).toThrow(ShapeError);
    expect(() => resizeBicubic(new Uint8Array(11), { width: 2, height: 2 }, to)).toThrow("'pixels' has 11 bytes");
    expect(() => resizeBicubic(new Uint8Array(0), { width: 0, height: 2 }, to)).toThrow(ArgumentError);
    expect(() => resizeBicubic(new Uint8Array(12), { width: 2, height: 2 }, { width: 1.5, height: 2 })).toThrow(
      "'to.width' is 1.5, expected an integer of at least 1",
    );
  });
});
