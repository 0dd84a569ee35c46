/** The comparator of every numeric test. Its own test is compare.test.ts. */

export type Numbers = ArrayLike<number>;

/** Half a unit in the last place, relative: the rounding error of one operation. */
export const epsilon = { f32: 2 ** -24, bf16: 2 ** -9 };

export interface Bound {
  /** Allowed error in roundings of a number: |actual − expected| ≤ roundings · ε · (|expected| + rms(expected)). */
  roundings: number;
  epsilon: number;
  /** Instead of rms(expected), for outputs that span many orders of magnitude: an absolute floor. */
  floor?: number;
}

export function rms(values: Numbers): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! * values[i]!;
  return Math.sqrt(sum / Math.max(1, values.length));
}

/** Null when all numbers agree, else what is wrong: the worst index, both values, how many failed. */
export function difference(
  actual: Numbers,
  expected: Numbers,
  { roundings, epsilon: unit, floor }: Bound,
): string | null {
  if (actual.length !== expected.length) return `${actual.length} numbers, expected ${expected.length}`;
  const scale = rms(expected);
  let failed = 0;
  let worst = -1;
  let worstRatio = -1;
  for (let i = 0; i < expected.length; i++) {
    const bound =
      floor === undefined
        ? roundings * unit * (Math.abs(expected[i]!) + scale)
        : roundings * unit * Math.abs(expected[i]!) + floor;
    const error = Math.abs(actual[i]! - expected[i]!);
    if (error <= bound) continue; // false for NaN
    failed++;
    const ratio = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error / Math.max(bound, 1e-300);
    if (ratio > worstRatio) {
      worstRatio = ratio;
      worst = i;
    }
  }
  if (failed === 0) return null;
  return `${failed} of ${expected.length} differ; worst at ${worst}: ${actual[worst]}, expected ${expected[worst]} (${worstRatio.toFixed(1)} times the bound)`;
}

/** Largest absolute difference over the largest absolute expected value: the measure that the goldens' tolerances are given in. NaN never passes. */
export function relativeToMaximum(actual: Numbers, expected: Numbers): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(actual[i]! - expected[i]!);
    if (!(error <= worst)) worst = error;
    if (Number.isNaN(worst)) return Number.POSITIVE_INFINITY;
    largest = Math.max(largest, Math.abs(expected[i]!));
  }
  return largest === 0 ? worst : worst / largest;
}
