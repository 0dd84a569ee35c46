import { type Reference, reference } from './array';

export function pool(x: Reference, mode: 'first' | 'mean', prefixTokens: number): Reference {
  const [B, N, d] = x.shape as [number, number, number];
  const begin = mode === 'mean' ? prefixTokens : 0;
  const end = mode === 'mean' ? N : 1;
  return reference([B, d], (i) => {
    const [b, c] = [Math.floor(i / d), i % d];
    let sum = 0;
    for (let n = begin; n < end; n++) sum += x.data[(b * N + n) * d + c]!;
    return sum / (end - begin);
  });
}
