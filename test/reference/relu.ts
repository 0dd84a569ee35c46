import { type Reference, reference } from './array';

export function relu(x: Reference): Reference {
  return reference(x.shape, (i) => Math.max(x.data[i]!, 0));
}
