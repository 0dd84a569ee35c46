import { dim, type Reference, reference } from './array';

export function factorContract(
  core: Reference,
  factors: Reference,
  { column, count, layout }: { column: number; count: number; layout: string },
): Reference {
  const [r, T] = [dim(factors, 0), dim(factors, 1)];
  const S = (t: number, a: number, b: number): number => {
    let sum = 0;
    for (let c = 0; c < r; c++) sum += core.data[(a * r + b) * r + c]! * factors.data[c * T + column + t]!;
    return sum;
  };
  if (layout === 'interleaved_columns') {
    return reference([r, count * r], (i) => {
      const [a, n] = [Math.floor(i / (count * r)), i % (count * r)];
      return S(n % count, a, Math.floor(n / count));
    });
  }
  return reference([count * r, r], (i) => {
    const [n, a] = [Math.floor(i / r), i % r];
    return layout === 'rows' ? S(Math.floor(n / r), a, n % r) : S(n % count, a, Math.floor(n / count));
  });
}
