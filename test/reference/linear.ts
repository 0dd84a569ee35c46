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

export function linearAdd(y: Reference, x: Reference, weight: Reference, column: number): Reference {
  const [W, O] = [dim(y, -1), dim(weight, 0)];
  const added = linear(x, weight);
  return reference(y.shape, (i) => {
    const [row, o] = [Math.floor(i / W), (i % W) - column];
    return y.data[i]! + (o >= 0 && o < O ? added.data[row * O + o]! : 0);
  });
}
