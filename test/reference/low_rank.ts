import { dim, type Reference, reference, rowsOf } from './array';

export function lowRankAccumulate(
  h: Reference,
  z: Reference,
  a: Reference,
  c: Reference,
  initialize: boolean,
): Reference {
  const [d, r] = [dim(a, 0), dim(a, 1)];
  const out = reference(h.shape, (i) => (initialize ? 0 : h.data[i]!));
  for (let row = 0; row < rowsOf(h); row++) {
    for (let k = 0; k < r; k++) {
      let u = 0;
      for (let i = 0; i < d; i++) u += z.data[row * d + i]! * a.data[i * r + k]!;
      for (let i = 0; i < d; i++) out.data[row * d + i]! += u * c.data[k * d + i]!;
    }
  }
  return out;
}
