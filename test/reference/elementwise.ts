import { type Reference, reference } from './array';

export function add(a: Reference, b: Reference): Reference {
  return reference(a.shape, (i) => a.data[i]! + b.data[i]!);
}

export function scale(x: Reference, factor: number): Reference {
  return reference(x.shape, (i) => factor * x.data[i]!);
}

export function residualAdd(x: Reference, branch: Reference, rowScale: Reference): Reference {
  const perImage = x.data.length / x.shape[0]!;
  return reference(x.shape, (i) => x.data[i]! + rowScale.data[Math.floor(i / perImage)]! * branch.data[i]!);
}

export function scaleImages(x: Reference, rowScale: Reference): Reference {
  const perImage = x.data.length / x.shape[0]!;
  return reference(x.shape, (i) => rowScale.data[Math.floor(i / perImage)]! * x.data[i]!);
}
