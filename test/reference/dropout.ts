import { philox } from '../../lib/data/rng';
import { type Reference, reference } from './array';

export interface Mask {
  rate: number;
  seed: number;
  stream: number;
}

// Derivatives come back for the same mask again and again.
const known = new Map<string, Uint8Array>();

/** 1 for each number that is kept, 0 for the others. */
export function kept(size: number, step: number, { rate, seed, stream }: Mask): Uint8Array {
  const key = [size, step, rate, seed, stream].join(' ');
  const before = known.get(key);
  if (before) return before;
  const mask = new Uint8Array(size);
  const block = new Uint32Array(4);
  for (let i = 0; i < size; i += 4) {
    const index = i / 4;
    block.set([index % 2 ** 32, Math.floor(index / 2 ** 32), (stream | 0x80000000) >>> 0, step >>> 0]);
    philox(block, seed % 2 ** 32, Math.floor(seed / 2 ** 32));
    for (let word = 0; word < 4 && i + word < size; word++)
      mask[i + word] = block[word]! >= Math.floor(Math.fround(rate) * 2 ** 32) ? 1 : 0;
  }
  known.set(key, mask);
  return mask;
}

export function dropout(x: Reference, step: Reference, mask: Mask): Reference {
  const keeps = kept(x.data.length, step.data[0]!, mask);
  return reference(x.shape, (i) => (keeps[i] ? x.data[i]! / (1 - Math.fround(mask.rate)) : 0));
}
