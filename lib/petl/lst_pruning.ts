/**
 * LST's side network, cut out of the backbone (one set of channels throughout, unlike in its authors' code for T5): the channels of the stream, the
 * numbers of each head and the hidden units of each MLP that count most are kept, with their weights. Each weight counts by itself, whatever by.
 */

import type { Vit } from '../models';
import { vitShapes } from '../models/vit';

/** A matrix on the host, and how much each of its weights counts. */
class Matrix {
  constructor(
    readonly data: Float32Array,
    readonly importance: Float32Array,
    readonly columns: number,
  ) {}

  get rows(): number {
    return this.data.length / this.columns;
  }

  /** Importance of each row, over some of its columns. */
  rowSums(columns?: readonly number[]): Float64Array {
    const sums = new Float64Array(this.rows);
    const all = columns ?? Array.from({ length: this.columns }, (_, j) => j);
    for (let i = 0; i < this.rows; i++)
      for (const j of all) sums[i]! += Math.abs(this.importance[i * this.columns + j]!);
    return sums;
  }

  /** Importance of each column, over some of its rows. */
  columnSums(rows: readonly number[]): Float64Array {
    const sums = new Float64Array(this.columns);
    for (const i of rows) {
      for (let j = 0; j < this.columns; j++) sums[j]! += Math.abs(this.importance[i * this.columns + j]!);
    }
    return sums;
  }

  pick(rows: readonly number[], columns: readonly number[]): Float32Array {
    return Float32Array.from({ length: rows.length * columns.length }, (_, index) => {
      const [i, j] = [Math.floor(index / columns.length), index % columns.length];
      return this.data[rows[i]! * this.columns + columns[j]!]!;
    });
  }
}

/** The places of the `count` largest, in their order. */
function largest(values: Float64Array, count: number): number[] {
  return Array.from(values.keys())
    .sort((a, b) => values[b]! - values[a]! || a - b)
    .slice(0, count)
    .sort((a, b) => a - b);
}

function pickEach(numbers: Float32Array, places: readonly number[]): Float32Array {
  return Float32Array.from(places, (place) => numbers[place]!);
}

/**
 * Initial values of the side blocks and of the norm behind them, by the backbone's names.
 * @param importance - of each weight of a matrix, by its name, up to sign. Default: the weight
 */
export async function prunedFrom(
  backbone: Vit,
  reduction: number,
  importance?: (name: string) => Promise<Float32Array>,
): Promise<Map<string, Float32Array>> {
  const { dim, depth, heads, hidden } = backbone.config;
  const shapes = vitShapes(backbone.config);
  const read = async (name: string): Promise<Float32Array> => {
    using tensor = backbone.plain(name);
    return (await tensor.read()) as Float32Array;
  };
  const matrix = async (name: string): Promise<Matrix> => {
    const [rows] = shapes.get(name)! as [number, ...number[]];
    const weights = await read(name);
    return new Matrix(weights, (await importance?.(name)) ?? weights, weights.length / rows);
  };

  // Channels of the stream, by all that writes to it.
  const writers = new Float64Array(dim);
  const note = (sums: Float64Array): void => {
    for (let j = 0; j < dim; j++) writers[j]! += sums[j]!;
  };
  note((await matrix('patch_embed.proj.weight')).rowSums());
  for (let i = 0; i < depth; i++) {
    for (const layer of ['attn.proj', 'mlp.fc2']) note((await matrix(`blocks.${i}.${layer}.weight`)).rowSums());
  }
  const channels = largest(writers, dim / reduction);

  const pruned = new Map<string, Float32Array>();
  const keep = (name: string, numbers: Float32Array): void => void pruned.set(name, numbers);
  const headWidth = dim / heads;
  for (let i = 0; i < depth; i++) {
    const place = `blocks.${i}`;
    for (const norm of ['norm1', 'norm2']) {
      for (const part of ['weight', 'bias']) {
        const name = `${place}.${norm}.${part}`;
        keep(name, pickEach(await read(name), channels));
      }
    }

    // Of each head the same numbers of q, k and v: those whose three rows together count most.
    const qkv = await matrix(`${place}.attn.qkv.weight`);
    const sums = qkv.rowSums(channels);
    const kept = Array.from({ length: heads }, (_, head) => {
      const start = head * headWidth;
      const products = Float64Array.from(
        { length: headWidth },
        (_, e) => sums[start + e]! * sums[dim + start + e]! * sums[2 * dim + start + e]!,
      );
      return largest(products, headWidth / reduction).map((e) => start + e);
    }).flat();
    const rows = [0, dim, 2 * dim].flatMap((third) => kept.map((row) => third + row));
    keep(`${place}.attn.qkv.weight`, qkv.pick(rows, channels));
    keep(`${place}.attn.qkv.bias`, pickEach(await read(`${place}.attn.qkv.bias`), rows));
    keep(`${place}.attn.proj.weight`, (await matrix(`${place}.attn.proj.weight`)).pick(channels, kept));
    keep(`${place}.attn.proj.bias`, pickEach(await read(`${place}.attn.proj.bias`), channels));

    const [fc1, fc2] = [await matrix(`${place}.mlp.fc1.weight`), await matrix(`${place}.mlp.fc2.weight`)];
    const [into, outOf] = [fc1.rowSums(channels), fc2.columnSums(channels)];
    const units = largest(
      into.map((sum, unit) => sum * outOf[unit]!),
      hidden / reduction,
    );
    keep(`${place}.mlp.fc1.weight`, fc1.pick(units, channels));
    keep(`${place}.mlp.fc1.bias`, pickEach(await read(`${place}.mlp.fc1.bias`), units));
    keep(`${place}.mlp.fc2.weight`, fc2.pick(channels, units));
    keep(`${place}.mlp.fc2.bias`, pickEach(await read(`${place}.mlp.fc2.bias`), channels));
  }
  for (const part of ['weight', 'bias']) keep(`norm.${part}`, pickEach(await read(`norm.${part}`), channels));
  return pruned;
}
