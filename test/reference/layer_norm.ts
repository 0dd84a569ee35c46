import { dim, type Reference, reference, rowsOf } from './array';

export function layerNorm(x: Reference, weight: Reference, bias: Reference, eps: number): Reference {
  const d = dim(x, -1);
  const out = reference(x.shape);
  for (let row = 0; row < rowsOf(x); row++) {
    const values = x.data.subarray(row * d, (row + 1) * d);
    const mean = values.reduce((sum, value) => sum + value, 0) / d;
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / d;
    for (let i = 0; i < d; i++) {
      out.data[row * d + i] = ((values[i]! - mean) / Math.sqrt(variance + eps)) * weight.data[i]! + bias.data[i]!;
    }
  }
  return out;
}
