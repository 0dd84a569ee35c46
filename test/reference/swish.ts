import { type Reference, reference } from './array';

export function swishOf(x: number, beta: number): number {
  return x / (1 + Math.exp(-beta * x));
}

export function swish(x: Reference, beta: number): Reference {
  return reference(x.shape, (i) => swishOf(x.data[i]!, beta));
}
