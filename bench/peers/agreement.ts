/** Right before fast: contenders that do not compute the same thing are not timed. */

import { DeviceError } from '../../lib/errors';
import { cosine as cosineOf } from '../harness';
import { type Contender, nameOf } from './contender';

/** How far a contender's numbers are from those of the first f32 one (of the first one, in training). */
export interface Agreement {
  /** The largest difference. Logits: in parts of the largest logit. Losses: in parts of the loss. */
  difference: number;
  /** Logits: the smallest cosine over the images. */
  cosine: number | null;
}

/** Room for f32 sums of up to 4096 products in another order, block after block. */
export const logitTolerance = 1e-4;
/** bf16 rounds to 8 bits in every layer; int8 rounds operands of products to fewer still. */
export const cosineTolerance = { bf16: 0.999, int8: 0.99 } as const;
/** AdamW's first updates are little more than signs, and a gradient near 0 may get either; bf16 adds its roundings. */
export const lossTolerance = { f32: 1e-4, bf16: 1e-2, int8: 5e-2 } as const;

/** @throws DeviceError when the logits [batch, classes] are not the reference's */
export function compareLogits(
  contender: Pick<Contender, 'software' | 'dtype'>,
  logits: ArrayLike<number>,
  reference: ArrayLike<number>,
  batch: number,
): Agreement {
  const largest = Math.max(...Array.from(reference, Math.abs));
  const difference = largestOf(reference, (value, i) => Math.abs(logits[i]! - value) / largest);
  const classes = reference.length / batch;
  const ofImage = (all: ArrayLike<number>, image: number): number[] =>
    Array.from({ length: classes }, (_, i) => all[image * classes + i]!);
  const cosine = Math.min(
    ...Array.from({ length: batch }, (_, image) => cosineOf(ofImage(logits, image), ofImage(reference, image))),
  );
  const [what, got, agrees, expected] =
    contender.dtype === 'f32'
      ? ['a largest difference', difference, difference <= logitTolerance, `at most ${logitTolerance}`]
      : [
          'a cosine',
          cosine,
          cosine >= cosineTolerance[contender.dtype],
          `at least ${cosineTolerance[contender.dtype]}`,
        ];
  if (logits.length !== reference.length || !agrees) refuse(contender, 'logits', `${what} of ${got}`, `${expected}`);
  return { difference, cosine };
}

/** @throws DeviceError when the losses of the first steps are not the reference's */
export function compareLosses(
  contender: Pick<Contender, 'software' | 'dtype'>,
  losses: ArrayLike<number>,
  reference: ArrayLike<number>,
): Agreement {
  const difference = largestOf(reference, (value, i) => Math.abs(losses[i]! - value) / Math.abs(value));
  const tolerance = lossTolerance[contender.dtype];
  if (losses.length !== reference.length || !(difference <= tolerance))
    refuse(contender, 'losses', `a largest difference of ${difference}`, `at most ${tolerance}`);
  return { difference, cosine: null };
}

/** NaN where one of the numbers is. */
function largestOf(values: ArrayLike<number>, of: (value: number, index: number) => number): number {
  return Math.max(...Array.from(values, of));
}

function refuse(
  contender: Pick<Contender, 'software' | 'dtype'>,
  argument: string,
  got: string,
  expected: string,
): never {
  const name = nameOf(contender);
  throw new DeviceError(`peers: ${argument} of '${name}' have ${got} from the reference, expected ${expected}`, {
    kernel: 'peers',
    argument: name,
    got,
    expected,
  });
}
