import { type Reference, reference } from './array';

/** The mean over the batch, [1]. */
export function softmaxCrossEntropy(logits: Reference, labels: Reference, smoothing: number): Reference {
  const [B, C] = logits.shape as [number, number];
  let loss = 0;
  for (let b = 0; b < B; b++) {
    const row = logits.data.subarray(b * C, (b + 1) * C);
    const largest = row.reduce((max, value) => Math.max(max, value), Number.NEGATIVE_INFINITY);
    const lse = largest + Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0));
    const mean = row.reduce((sum, value) => sum + value, 0) / C;
    loss += lse - (1 - smoothing) * row[labels.data[b]!]! - smoothing * mean;
  }
  return reference([1], () => loss / B);
}
