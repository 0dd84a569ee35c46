import { kernels } from '../kernels';
import { refuseWhileRecording } from '../replay';
import type { Tensor } from '../tensor';

/** Where in a stream of random numbers a tensor starts. */
export interface RandomPlace {
  /** Which stream: a whole number from 0, below 2⁵³. */
  seed: number;
  /** Blocks of four numbers that come before; a tensor of n numbers uses ⌈n/4⌉. Default 0. */
  offset?: number;
}

export interface UniformOptions extends RandomPlace {
  /** Default 0. */
  low?: number;
  /** Default 1. */
  high?: number;
}

export interface NormalOptions extends RandomPlace {
  /** Default 0. */
  mean?: number;
  /** Default 1. */
  deviation?: number;
  /** Farthest distance from the mean; the distribution is truncated there. Default: none. */
  cut?: number;
}

export interface KeepOptions extends RandomPlace {
  /** Probability of 1/keep, above 0 and at most 1. */
  keep: number;
}

/**
 * Fills `out` with numbers from low to high, in place. Like all numbers here they depend on seed, offset and place in the tensor alone, and are the same
 * bits on every device.
 * @param out - any shape, f32 or bf16
 * @returns out
 * @throws DtypeError, DisposedError, DeviceError, ArgumentError
 * @see Philox4x32-10, Salmon et al., SC 2011
 * @example ops.randomUniform_(a, { low: -bound, high: bound, seed: 42 });
 */
export function randomUniform_(out: Tensor, options: UniformOptions): Tensor {
  refuseWhileRecording('randomUniform', out.device);
  kernels.randomUniform({ out, ...options });
  return out;
}

/**
 * Fills `out` with normal numbers, in place; with `cut`, from the normal distribution truncated to mean ± cut (timm's trunc_normal_ cuts at 2).
 * @param out - any shape, f32 or bf16
 * @returns out
 * @throws DtypeError, DisposedError, DeviceError, ArgumentError
 * @example ops.randomNormal_(weight, { deviation: 0.02, cut: 2, seed: 42 });
 */
export function randomNormal_(out: Tensor, options: NormalOptions): Tensor {
  refuseWhileRecording('randomNormal', out.device);
  kernels.randomNormal({ out, ...options });
  return out;
}

/**
 * Fills `out` with 1/keep, each with probability keep, and 0, in place: the row scales of {@link residualAdd}.
 * @param out - [B], f32
 * @returns out
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 */
export function randomKeep_(out: Tensor, options: KeepOptions): Tensor {
  refuseWhileRecording('randomKeep', out.device);
  kernels.randomKeep({ out, ...options });
  return out;
}
