/**
 * Random numbers that are a function of where they are used, not of what was drawn before: Philox 4×32 with 10 rounds (Salmon et al.,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A number is `philox(counter, key)`; the key is the seed, the counter holds
 * the stream (up to three words, for example purpose, epoch, image) and the number of the draw. So the order of epoch 7, or the augmentation
 * of image 12 in it, can be had without going through epochs 0 … 6, and a run that was interrupted goes on bit for bit.
 */
import { checkInteger } from './arguments';

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const ROUNDS = 10;

/** The upper 32 bits of the 64-bit product of two unsigned 32-bit numbers. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const middleLow = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + (middle >>> 16) + (middleLow >>> 16)) >>> 0;
}

/** One Philox 4×32-10 block: replaces the four counter words in `block` by four random words. */
export function philox(block: Uint32Array, key0: number, key1: number): void {
  let [c0, c1, c2, c3] = block as unknown as [number, number, number, number];
  let k0 = key0 >>> 0;
  let k1 = key1 >>> 0;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0) >>> 0;
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  block[0] = c0;
  block[1] = c1;
  block[2] = c2;
  block[3] = c3;
}

/**
 * A seeded stream of random numbers. Two streams that differ in the seed or in any stream word are independent.
 *
 *     const order = new Rng(seed, [1, epoch]).permutation(dataset.length);
 */
export class Rng {
  readonly #key0: number;
  readonly #key1: number;
  readonly #stream: [number, number, number];
  readonly #block = new Uint32Array(4);
  #drawn = 0;

  /**
   * @param seed - integer from 0 to 2^53 − 1
   * @param stream - up to three integers below 2^32 that name the stream; missing ones are 0
   */
  constructor(seed: number, stream: readonly number[] = []) {
    checkInteger('Rng', 'seed', seed);
    checkInteger('Rng', 'stream.length', stream.length, { high: 3 });
    for (const word of stream) checkInteger('Rng', 'stream', word, { high: 0xffffffff });
    this.#key0 = seed >>> 0;
    this.#key1 = Math.floor(seed / 2 ** 32);
    this.#stream = [stream[0] ?? 0, stream[1] ?? 0, stream[2] ?? 0];
  }

  /** A random integer of 32 bits, 0 to 2^32 − 1. A stream holds 2^34 of them, then it starts again. */
  uint32(): number {
    const lane = this.#drawn & 3;
    if (lane === 0) {
      this.#block[0] = Math.floor(this.#drawn / 4);
      this.#block.set(this.#stream, 1);
      philox(this.#block, this.#key0, this.#key1);
    }
    this.#drawn++;
    return this.#block[lane]!;
  }

  /** A number of [low, high) with 53 random bits. */
  uniform(low = 0, high = 1): number {
    const upper = this.uint32() >>> 5;
    const lower = this.uint32() >>> 6;
    return low + (high - low) * ((upper * 2 ** 26 + lower) / 2 ** 53);
  }

  /** An integer of 0 … n − 1, each with the same probability (values that would favour some are drawn again). `n` up to 2^32. */
  integer(n: number): number {
    checkInteger('Rng.integer', 'n', n, { low: 1, high: 2 ** 32 });
    const limit = 2 ** 32 - (2 ** 32 % n);
    for (;;) {
      const value = this.uint32();
      if (value < limit) return value % n;
    }
  }

  /** A standard normal number (Box–Muller, the cosine half). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** A random order of 0 … n − 1 (Fisher–Yates). */
  permutation(n: number): Uint32Array {
    checkInteger('Rng.permutation', 'n', n, { high: 2 ** 32 - 1 });
    const order = Uint32Array.from({ length: n }, (_, index) => index);
    for (let last = n - 1; last > 0; last--) {
      const other = this.integer(last + 1);
      const swapped = order[last]!;
      order[last] = order[other]!;
      order[other] = swapped;
    }
    return order;
  }
}
