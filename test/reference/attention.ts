import { dim, type Reference, reference } from './array';
import { linear } from './linear';

export function attention(qkv: Reference, heads: number, scale?: number): Reference {
  const [images, tokens] = [dim(qkv, 0), dim(qkv, 1)];
  const d = dim(qkv, 2) / 3;
  const E = d / heads;
  const factor = scale || 1 / Math.sqrt(E);
  const out = reference([images, tokens, d]);
  const scores = new Float64Array(tokens);
  for (let image = 0; image < images; image++) {
    const rowOf = (token: number) => (image * tokens + token) * 3 * d;
    for (let channel = 0; channel < d; channel += E) {
      for (let query = 0; query < tokens; query++) {
        const q = rowOf(query) + channel;
        let largest = Number.NEGATIVE_INFINITY;
        for (let key = 0; key < tokens; key++) {
          const k = rowOf(key) + d + channel;
          let s = 0;
          for (let e = 0; e < E; e++) s += qkv.data[q + e]! * qkv.data[k + e]!;
          scores[key] = factor * s;
          largest = Math.max(largest, scores[key]!);
        }
        let total = 0;
        for (let key = 0; key < tokens; key++) total += scores[key] = Math.exp(scores[key]! - largest);
        const o = (image * tokens + query) * d + channel;
        for (let key = 0; key < tokens; key++) {
          const v = rowOf(key) + 2 * d + channel;
          for (let e = 0; e < E; e++) out.data[o + e]! += (scores[key]! / total) * qkv.data[v + e]!;
        }
      }
    }
  }
  return out;
}

/** The first row of attention behind its linear layer. */
export function classAttention(
  x: Reference,
  weight: Reference,
  bias: Reference | undefined,
  heads: number,
  scale?: number,
): Reference {
  const all = attention(linear(x, weight, { bias }), heads, scale);
  const [images, tokens, d] = all.shape as [number, number, number];
  return reference([images, d], (i) => all.data[Math.floor(i / d) * tokens * d + (i % d)]!);
}
