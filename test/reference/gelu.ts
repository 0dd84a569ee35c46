import { type Reference, reference } from './array';

/** Φ(x) in float64: near 0 by its series, whose terms all have one sign, else by the continued fraction of its tail (Laplace). */
export function normalCdf(x: number): number {
  const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  if (Math.abs(x) < 4) {
    let term = x;
    let sum = x;
    for (let k = 1; k < 120; k++) {
      term *= (x * x) / (2 * k + 1);
      sum += term;
    }
    return 0.5 + density * sum;
  }
  let fraction = Math.abs(x);
  for (let k = 80; k >= 1; k--) fraction = Math.abs(x) + k / fraction;
  return x < 0 ? density / fraction : 1 - density / fraction;
}

export function gelu(x: Reference): Reference {
  return reference(x.shape, (i) => x.data[i]! * normalCdf(x.data[i]!));
}
