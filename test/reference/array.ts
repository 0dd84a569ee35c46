/** Arrays of float64 for the references: forward mathematics in plain JavaScript, written to be read, differentiated numerically by the harness. */

export interface Reference {
  shape: readonly number[];
  data: Float64Array;
}

export function reference(shape: readonly number[], fill?: (index: number) => number): Reference {
  const size = shape.reduce((product, length) => product * length, 1);
  const data = new Float64Array(size);
  if (fill) for (let i = 0; i < size; i++) data[i] = fill(i);
  return { shape, data };
}

/** Length of an axis; negative axes count from the end. */
export function dim(x: Reference, axis: number): number {
  return x.shape[axis < 0 ? x.shape.length + axis : axis]!;
}

export function rowsOf(x: Reference): number {
  return x.data.length / dim(x, -1);
}
