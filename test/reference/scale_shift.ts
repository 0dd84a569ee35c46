import { dim, type Reference, reference } from './array';

export function scaleShift(x: Reference, scale: Reference, shift: Reference): Reference {
  const d = dim(x, -1);
  return reference(x.shape, (i) => x.data[i]! * scale.data[i % d]! + shift.data[i % d]!);
}
