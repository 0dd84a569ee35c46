import { type Reference, reference } from './array';

export function insertPrompts(x: Reference, prompt: Reference, at: number, replaced: number): Reference {
  const [B, N, d] = x.shape as [number, number, number];
  const l = prompt.shape[0]!;
  const M = N - replaced + l;
  return reference([B, M, d], (i) => {
    const [b, t, c] = [Math.floor(i / (M * d)), Math.floor(i / d) % M, i % d];
    if (t >= at && t < at + l) return prompt.data[(t - at) * d + c]!;
    const row = t < at ? t : t - l + replaced;
    return x.data[(b * N + row) * d + c]!;
  });
}
