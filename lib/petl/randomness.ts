/** What is random in a training pass: inputs of it that depend on seed and step alone. */

import * as ops from '../ops';
import type { Tensor } from '../tensor';
import type { PassInput } from './passes';

export interface Randomness {
  /** Drop path's masks by block and branch: '3.attn'. */
  masks: Readonly<Record<string, Tensor>>;
  /** The number of the step, i32 [1], for methods that drop numbers. */
  step: Tensor | undefined;
}

// Drop path's counters lie far from those of initial values.
const dropPathBase = 2 ** 44;
const dropPathStride = 2 ** 14;

/**
 * The masks of a step, one for each branch that may be dropped, by the names of {@link Randomness.masks}, and for methods that drop numbers the step's own
 * number, as 'step'.
 */
export function randomInputs(
  { dropPath, seed }: { dropPath: number; seed: number },
  depth: number,
  step: number,
  batch: number,
  drops: boolean,
): Record<string, PassInput> {
  const inputs: Record<string, PassInput> = {};
  for (let i = 1; i <= depth; i++) {
    const rate = depth > 1 ? (dropPath * (i - 1)) / (depth - 1) : dropPath;
    if (rate === 0) continue;
    for (const [index, which] of ['attn', 'mlp'].entries()) {
      const offset = dropPathBase + ((step * depth + i - 1) * 2 + index) * dropPathStride;
      const fill = (out: Tensor): void => void ops.randomKeep_(out, { keep: 1 - rate, seed, offset });
      inputs[`${i}.${which}`] = { shape: [batch], fill };
    }
  }
  if (drops) inputs.step = { shape: [1], dtype: 'i32', fill: (out) => out.write(Int32Array.of(step)) };
  return inputs;
}

/** The random numbers of a place in the model: FNV-1a, 31 bits. */
export function streamOf(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 1;
}
