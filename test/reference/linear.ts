import { dim, type Reference, reference, rowsOf } from './array';
import { normalCdf } from './gelu';

export interface LinearParts {
  bias?: Reference | undefined;
  residual?: Reference | undefined;
  activation?: 'none' | 'gelu' | undefined;
}

export function linear(
  x: Reference,
  weight: Reference,
  { bias, residual, activation = 'none' }: LinearParts = {},
): Reference {
  const [O, I] = [dim(weight, 0), dim(weight, 1)];
  const out = reference([...x.shape.slice(0, -1), O]);
  for (let row = 0; row < rowsOf(x); row++) {
    for (let o = 0; o < O; o++) {
      let sum = bias ? bias.data[o]! : 0;
      for (let i = 0; i < I; i++) sum += x.data[row * I + i]! * weight.data[o * I + i]!;
      if (activation === 'gelu') sum *= normalCdf(sum);
      out.data[row * O + o] = sum + (residual ? residual.data[row * O + o]! : 0);
    }
  }
  return out;
}
