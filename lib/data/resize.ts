/**
 * Pillow's bicubic resize, bit for bit, because the published accuracies were measured on images that went through it: antialiased (the kernel
 * widens when the image shrinks), Keys cubic with a = −0.5, horizontal pass first, each pass rounded to 8 bits, weights with 22 fractional bits.
 * Written from the description of the method; test/fixtures/resize holds outputs of the real one.
 */
import { ShapeError } from '../errors';
import { checkInteger } from './arguments';

/** Width and height in pixels. */
export interface PixelSize {
  width: number;
  height: number;
}

const FRACTION_BITS = 22;
const ROUND_HALF = 1 << (FRACTION_BITS - 1);
const KERNEL_RADIUS = 2;
const CHANNELS = 3;

/** Keys' cubic convolution kernel with a = −0.5, zero from |x| = 2 on. */
function cubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

/** For each output pixel: the first input pixel, how many of them, and their weights in fixed point. */
interface Taps {
  start: Int32Array;
  count: Int32Array;
  /** `stride` weights per output pixel. */
  weights: Int32Array;
  stride: number;
}

function tapsFor(inLength: number, outLength: number): Taps {
  const scale = inLength / outLength;
  const filterScale = Math.max(scale, 1);
  const support = KERNEL_RADIUS * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const start = new Int32Array(outLength);
  const count = new Int32Array(outLength);
  const weights = new Int32Array(outLength * stride);
  const exact = new Float64Array(stride);
  // Pillow multiplies by the rounded reciprocal; dividing would differ in the last bit.
  const inverseScale = 1 / filterScale;
  for (let out = 0; out < outLength; out++) {
    const centre = (out + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(inLength, Math.trunc(centre + support + 0.5));
    let sum = 0;
    for (let tap = 0; tap < end - first; tap++) {
      const weight = cubic((tap + first - centre + 0.5) * inverseScale);
      exact[tap] = weight;
      sum += weight;
    }
    for (let tap = 0; tap < end - first; tap++) {
      const scaled = (sum === 0 ? exact[tap]! : exact[tap]! / sum) * (1 << FRACTION_BITS);
      weights[out * stride + tap] = Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    }
    start[out] = first;
    count[out] = end - first;
  }
  return { start, count, weights, stride };
}

/** Rounds a sum with {@link FRACTION_BITS} fractional bits to a byte. Half a unit is already in the sum. */
function toByte(sum: number): number {
  const value = sum >> FRACTION_BITS;
  return value < 0 ? 0 : Math.min(value, 255);
}

/** [height, width, 3] → [height, outWidth, 3]. */
function resizeRows(pixels: Uint8Array, height: number, width: number, outWidth: number): Uint8Array {
  const { start, count, weights, stride } = tapsFor(width, outWidth);
  const out = new Uint8Array(height * outWidth * CHANNELS);
  let to = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < outWidth; x++) {
      let from = (y * width + start[x]!) * CHANNELS;
      let red = ROUND_HALF;
      let green = ROUND_HALF;
      let blue = ROUND_HALF;
      const lastWeight = x * stride + count[x]!;
      for (let w = x * stride; w < lastWeight; w++) {
        const weight = weights[w]!;
        red += pixels[from]! * weight;
        green += pixels[from + 1]! * weight;
        blue += pixels[from + 2]! * weight;
        from += CHANNELS;
      }
      out[to] = toByte(red);
      out[to + 1] = toByte(green);
      out[to + 2] = toByte(blue);
      to += CHANNELS;
    }
  }
  return out;
}

/** [height, width, 3] → [outHeight, width, 3]. Sums a whole row at a time, so memory is read in order. */
function resizeColumns(pixels: Uint8Array, height: number, width: number, outHeight: number): Uint8Array {
  const { start, count, weights, stride } = tapsFor(height, outHeight);
  const rowLength = width * CHANNELS;
  const out = new Uint8Array(outHeight * rowLength);
  const sums = new Int32Array(rowLength);
  for (let y = 0; y < outHeight; y++) {
    sums.fill(ROUND_HALF);
    for (let tap = 0; tap < count[y]!; tap++) {
      const weight = weights[y * stride + tap]!;
      const row = (start[y]! + tap) * rowLength;
      for (let i = 0; i < rowLength; i++) sums[i] = sums[i]! + pixels[row + i]! * weight;
    }
    for (let i = 0; i < rowLength; i++) out[y * rowLength + i] = toByte(sums[i]!);
  }
  return out;
}

/**
 * Resizes an RGB image as `PIL.Image.resize(size, BICUBIC)` does; the ratio of the sides is not kept.
 * @param pixels - interleaved RGB, [from.height, from.width, 3]; not changed
 * @param from - size of `pixels`
 * @param to - size of the result
 * @returns [to.height, to.width, 3]; always a new array
 * @throws ArgumentError for a side that is not a positive integer, ShapeError if `pixels` has another length
 */
export function resizeBicubic(pixels: Uint8Array, from: PixelSize, to: PixelSize): Uint8Array {
  for (const [name, size] of [
    ['from', from],
    ['to', to],
  ] as const) {
    checkInteger('resizeBicubic', `${name}.width`, size.width, { low: 1 });
    checkInteger('resizeBicubic', `${name}.height`, size.height, { low: 1 });
  }
  const expected = from.width * from.height * CHANNELS;
  if (pixels.length !== expected) {
    throw new ShapeError(
      `resizeBicubic: 'pixels' has ${pixels.length} bytes, expected height · width · 3 = ${from.height} · ${from.width} · 3 = ${expected}`,
      { kernel: 'resizeBicubic', argument: 'pixels', got: String(pixels.length), expected: String(expected) },
    );
  }
  const wide = from.width === to.width ? pixels : resizeRows(pixels, from.height, from.width, to.width);
  const done = from.height === to.height ? wide : resizeColumns(wide, from.height, to.width, to.height);
  return done === pixels ? new Uint8Array(pixels) : done;
}
