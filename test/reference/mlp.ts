import type { Reference } from './array';
import { linear } from './linear';
import { pool } from './pool';

export interface MlpParts {
  bias1?: Reference | undefined;
  bias2?: Reference | undefined;
  residual?: Reference | undefined;
}

export function mlp(x: Reference, weight1: Reference, weight2: Reference, parts: MlpParts = {}): Reference {
  const hidden = linear(x, weight1, { bias: parts.bias1, activation: 'gelu' });
  return linear(hidden, weight2, { bias: parts.bias2, residual: parts.residual });
}

/** In the other order than the kernel: the mean of what the MLP gives. */
export function mlpMean(
  x: Reference,
  weight1: Reference,
  weight2: Reference,
  parts: Omit<MlpParts, 'residual'>,
  prefixTokens: number,
): Reference {
  return pool(mlp(x, weight1, weight2, parts), 'mean', prefixTokens);
}
