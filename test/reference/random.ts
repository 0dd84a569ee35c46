/** native/random_numbers.h once more, with every operation rounded to f32: what a device draws must have these bits. */

import { philox } from '../../lib/data/rng';

const f32 = Math.fround;
const add = (a: number, b: number): number => f32(a + b);
const mul = (a: number, b: number): number => f32(a * b);

/** The words that numbers 0 … count − 1 are made from. */
export function words(seed: number, offset: number, count: number): Uint32Array {
  const bits = new Uint32Array(4 * Math.ceil(count / 4));
  for (let i = 0; i < bits.length / 4; i++) {
    const counter = offset + i;
    const block = bits.subarray(4 * i, 4 * i + 4);
    block.set([counter % 2 ** 32, Math.floor(counter / 2 ** 32), 0, 0]);
    philox(block, seed % 2 ** 32, Math.floor(seed / 2 ** 32));
  }
  return bits.subarray(0, count);
}

const unit = (bits: number): number => (bits >>> 8) / 2 ** 24;

export function uniform(bits: number, low: number, high: number): number {
  return Math.min(add(low, mul(add(high, -low), unit(bits))), high);
}

export function keepOrDrop(bits: number, keep: number): number {
  return unit(bits) < keep ? f32(1 / keep) : 0;
}

function polynomial(x: number, coefficients: readonly number[]): number {
  return coefficients.map(f32).reduceRight((sum, coefficient) => add(mul(sum, x), coefficient));
}

function log(x: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, x);
  const shifted = view.getInt32(0) - 0x3f3504f3;
  view.setInt32(0, (shifted & 0x7fffff) + 0x3f3504f3);
  const f = add(view.getFloat32(0), -1);
  const square = mul(f, f);
  const series = polynomial(
    f,
    [0.33334166, -0.250016987, 0.199548756, -0.165644256, 0.14977994, -0.143790082, 0.0867218426],
  );
  const tail = add(mul(mul(square, f), series), mul(square, -0.5));
  return add(mul(shifted >> 23, f32(Math.LN2)), add(f, tail));
}

function upperQuantile(p: number): number {
  const y = -log(p);
  const numerator = polynomial(y, [-1.92290151, -4.02692619, 6.30719708, 4.70782618, 0.497395555, 0.00752782336]);
  const denominator = polynomial(y, [1, 7.01162327, 6.98990835, 1.44561105, 0.0579238607, 0.000214053777]);
  return Math.max(f32(numerator / denominator), 0);
}

/** Φ(−c) in float64. */
export function normalTail(c: number): number {
  if (!(c < 15)) return 0;
  const y = (c * c) / 8192;
  let e = 1 - y * (1 - (y / 2) * (1 - (y / 3) * (1 - (y / 4) * (1 - y / 5))));
  for (let i = 0; i < 12; i++) e *= e;
  const density = 0.3989422804014327 * e;
  if (c > 3) {
    let fraction = c;
    for (let k = 60; k >= 1; k--) fraction = c + k / fraction;
    return density / fraction;
  }
  let term = c;
  let sum = c;
  for (let k = 1; k < 60; k++) {
    term *= (c * c) / (2 * k + 1);
    sum += term;
  }
  return 0.5 - density * sum;
}

export function normal(bits: number, mean: number, deviation: number, cut: number): number {
  const tail = f32(normalTail(cut / deviation));
  const share = mul(add(f32(bits & 0x7fffffff), 0.5), 2 ** -31);
  const distance = mul(deviation, upperQuantile(add(tail, mul(add(0.5, -tail), share))));
  const bounded = Math.min(distance, cut);
  return add(mean, bits >>> 31 ? -bounded : bounded);
}
