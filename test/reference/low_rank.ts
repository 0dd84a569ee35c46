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

export function lowRankProject(z: Reference, a: Reference): Reference {
  const [d, r] = [dim(a, 0), dim(a, 1)];
  return reference([...z.shape.slice(0, -1), r], (i) => {
    const [row, k] = [Math.floor(i / r), i % r];
    let u = 0;
    for (let j = 0; j < d; j++) u += z.data[row * d + j]! * a.data[j * r + k]!;
    return u;
  });
}

export function lowRankCombine(h: Reference, us: Reference[], cs: Reference[]): Reference {
  const d = dim(h, -1);
  return reference(h.shape, (i) => {
    const [row, column] = [Math.floor(i / d), i % d];
    let sum = 0;
    for (const [j, u] of us.entries()) {
      const r = dim(u, -1);
      for (let k = 0; k < r; k++) sum += u.data[row * r + k]! * cs[j]!.data[k * d + column]!;
    }
    return sum;
  });
}
