import { describe, expect, it } from 'vitest';
import { affineAugment, Rng } from '../../lib/data';
import { ArgumentError } from '../../lib/errors';

const SIZE = 16;
/** Everything switched off; a test switches on what it is about. */
const STILL = { scale: [1, 1], rotation: 0, shift: 0, flip: 0, contrast: [1, 1], brightness: 0 } as const;

const noise = Uint8Array.from({ length: SIZE * SIZE * 3 }, (_, i) => (Math.imul(i, 0x9e3779b1) >>> 13) & 255);
const at = (image: Uint8Array, x: number, y: number) => [...image.subarray((y * SIZE + x) * 3, (y * SIZE + x) * 3 + 3)];
/** White with one dark pixel. */
function dot(x: number, y: number): Uint8Array {
  const image = new Uint8Array(SIZE * SIZE * 3).fill(255);
  image.fill(0, (y * SIZE + x) * 3, (y * SIZE + x) * 3 + 3);
  return image;
}
/** Where the darkness of an image has its centre, and how much of it there is (in dark pixels). */
function darkness(image: Uint8Array): { x: number; y: number; mass: number } {
  let [x, y, mass] = [0, 0, 0];
  for (let i = 0; i < SIZE * SIZE; i++) {
    const dark = (255 - image[i * 3]!) / 255;
    mass += dark;
    x += dark * (i % SIZE);
    y += dark * Math.floor(i / SIZE);
  }
  return { x: x / mass, y: y / mass, mass };
}

describe('affineAugment', () => {
  it('is the identity with everything off', () => {
    expect(affineAugment(STILL)(noise, new Rng(1), SIZE)).toEqual(noise);
  });

  it('depends on the random numbers alone and leaves its input alone', () => {
    const augment = affineAugment();
    const before = noise.slice();
    const first = augment(noise, new Rng(1, [2]), SIZE);
    augment(noise, new Rng(9), SIZE);
    expect(augment(noise, new Rng(1, [2]), SIZE)).toEqual(first);
    expect(augment(noise, new Rng(1, [3]), SIZE)).not.toEqual(first);
    expect(noise).toEqual(before);
  });

  it('mirrors left and right', () => {
    const got = affineAugment({ ...STILL, flip: 1 })(noise, new Rng(1), SIZE);
    for (let y = 0; y < SIZE; y++) {
      for (let x = 0; x < SIZE; x++) expect(at(got, x, y)).toEqual(at(noise, SIZE - 1 - x, y));
    }
  });

  it('mirrors about half of the images by default', () => {
    const augment = affineAugment({ ...STILL, flip: 0.5 });
    let mirrored = 0;
    for (let i = 0; i < 400; i++) mirrored += darkness(augment(dot(2, 8), new Rng(3, [i]), SIZE)).x > 8 ? 1 : 0;
    // Four standard deviations of 400 fair draws are 40.
    expect(Math.abs(mirrored - 200)).toBeLessThan(40);
  });

  it('shifts up to the given part of the side, both ways, and fills with the background', () => {
    const augment = affineAugment({ ...STILL, shift: 0.25 });
    const places = Array.from({ length: 300 }, (_, i) => darkness(augment(dot(8, 8), new Rng(4, [i]), SIZE)));
    for (const axis of ['x', 'y'] as const) {
      const shifts = places.map((place) => place[axis] - 8);
      expect(Math.max(...shifts)).toBeGreaterThan(3.7);
      expect(Math.max(...shifts)).toBeLessThanOrEqual(4.01);
      expect(Math.min(...shifts)).toBeLessThan(-3.7);
      expect(Math.min(...shifts)).toBeGreaterThanOrEqual(-4.01);
    }
    const black = new Uint8Array(SIZE * SIZE * 3);
    const corner = (background: number) => {
      const image = affineAugment({ ...STILL, shift: 1, background })(black, new Rng(5), SIZE);
      return new Set([at(image, 0, 0), at(image, 15, 0), at(image, 0, 15), at(image, 15, 15)].flat());
    };
    expect(corner(255)).toContain(255);
    expect(corner(77)).toContain(77);
    expect(corner(77)).not.toContain(255);
  });

  it('scales the content about the centre', () => {
    const square = new Uint8Array(SIZE * SIZE * 3).fill(255);
    for (let y = 6; y < 10; y++) square.fill(0, (y * SIZE + 6) * 3, (y * SIZE + 10) * 3);
    for (const scale of [0.75, 1, 1.5, 2]) {
      const { x, y, mass } = darkness(affineAugment({ ...STILL, scale: [scale, scale] })(square, new Rng(1), SIZE));
      expect(x).toBeCloseTo(7.5, 2);
      expect(y).toBeCloseTo(7.5, 2);
      expect(Math.abs(mass / (16 * scale * scale) - 1)).toBeLessThan(0.08);
    }
  });

  it('rotates about the centre, up to the given angle, both ways', () => {
    const augment = affineAugment({ ...STILL, rotation: 0.25 });
    const angles = Array.from({ length: 300 }, (_, i) => {
      const { x, y } = darkness(augment(dot(13, 7), new Rng(6, [i]), SIZE));
      expect(Math.abs(Math.hypot(x - 7.5, y - 7.5) - Math.hypot(5.5, 0.5))).toBeLessThan(0.3);
      return Math.atan2(y - 7.5, x - 7.5) - Math.atan2(-0.5, 5.5);
    });
    expect(Math.max(...angles)).toBeGreaterThan(0.2);
    expect(Math.max(...angles)).toBeLessThan(0.28);
    expect(Math.min(...angles)).toBeLessThan(-0.2);
    expect(Math.min(...angles)).toBeGreaterThan(-0.28);
  });

  it('changes contrast about middle grey, and the brightness of each channel by itself', () => {
    const flat = new Uint8Array(SIZE * SIZE * 3);
    for (let i = 0; i < flat.length; i += 3) flat.set([60, 128, 200], i);
    const half = affineAugment({ ...STILL, contrast: [0.5, 0.5] })(flat, new Rng(1), SIZE);
    expect(at(half, 5, 5)).toEqual([94, 128, 164]);
    const hard = affineAugment({ ...STILL, contrast: [3, 3] })(flat, new Rng(1), SIZE);
    expect(at(hard, 5, 5)).toEqual([0, 129, 255]);
    const bright = affineAugment({ ...STILL, brightness: 0.3 });
    const changes = Array.from({ length: 200 }, (_, i) => at(bright(flat, new Rng(7, [i]), SIZE), 5, 5)).map(
      ([r, g, b]) => [r! - 60, g! - 128, b! - 200],
    );
    const all = changes.flat();
    expect(Math.max(...all)).toBeLessThanOrEqual(38);
    expect(Math.min(...all)).toBeGreaterThanOrEqual(-39);
    expect(Math.max(...all)).toBeGreaterThan(33);
    expect(Math.min(...all)).toBeLessThan(-33);
    expect(changes.filter(([r, g, b]) => r === g && g === b).length).toBeLessThan(5);
  });

  it('takes well below 0.3 ms for a 64 × 64 image', () => {
    const image = Uint8Array.from({ length: 64 * 64 * 3 }, (_, i) => (i * 31) & 255);
    const augment = affineAugment();
    const runs = Array.from({ length: 60 }, (_, i) => {
      const start = performance.now();
      augment(image, new Rng(1, [i]), 64);
      return performance.now() - start;
    }).sort((a, b) => a - b);
    // The fastest tenth, so that a busy machine is no failure.
    expect(runs[6]!).toBeLessThan(0.3);
  });

  it('refuses ranges that make no sense', () => {
    expect(() => affineAugment({ scale: [1.2, 0.8] })).toThrow(ArgumentError);
    expect(() => affineAugment({ scale: [0, 1] })).toThrow("'scale' is [0, 1]");
    expect(() => affineAugment({ flip: 2 })).toThrow("'flip' is 2");
    expect(() => affineAugment({ rotation: Number.NaN })).toThrow(ArgumentError);
    expect(() => affineAugment({ flips: 1 } as never)).toThrow("unknown option 'flips'");
  });
});
