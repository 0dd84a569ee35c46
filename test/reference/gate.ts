import { type Reference, reference } from './array';

/** mu and 1 − mu. */
export function gateOf(alpha: number, temperature: number): [number, number] {
  const t = alpha / Math.fround(temperature);
  return [1 / (1 + Math.exp(-t)), 1 / (1 + Math.exp(t))];
}

export function gatedMix(a: Reference, b: Reference, alpha: Reference, temperature: number): Reference {
  const [mu, rest] = gateOf(alpha.data[0]!, temperature);
  return reference(a.shape, (i) => mu * a.data[i]! + rest * b.data[i]!);
}
