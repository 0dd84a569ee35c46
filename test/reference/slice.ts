import { type Reference, reference } from './array';

type Range = readonly [number, number];

/** Of a matrix; a vector is one row. */
export function slice(x: Reference, rows?: Range, columns?: Range): Reference {
  const C = x.shape.at(-1)!;
  const [top, bottom] = rows ?? [0, x.data.length / C];
  const [left, right] = columns ?? [0, C];
  const width = right - left;
  return reference(x.shape.length === 1 ? [width] : [bottom - top, width], (i) => {
    return x.data[(top + Math.floor(i / width)) * C + left + (i % width)]!;
  });
}
