import type { Device, Kind } from '../device';
import { fill_, randomNormal_, randomUniform_ } from '../ops';
import { outsideScopes } from '../scope';
import { Tensor } from '../tensor';

/** How a parameter starts. */
export type Initializer = (tensor: Tensor, seed: number, offset: number) => void;

export const init = {
  /** Uniform in [−bound, bound]. */
  uniform:
    (bound: number): Initializer =>
    (out, seed, offset) => {
      randomUniform_(out, { low: -bound, high: bound, seed, offset });
    },
  /** Normal with the given deviation, cut at ±cut (timm's trunc_normal_ cuts at ±2 absolute). */
  normal:
    (deviation: number, { mean = 0, cut }: { mean?: number; cut?: number } = {}): Initializer =>
    (out, seed, offset) => {
      randomNormal_(
        out,
        cut === undefined ? { mean, deviation, seed, offset } : { mean, deviation, cut, seed, offset },
      );
    },
  constant:
    (value: number): Initializer =>
    (out) => {
      fill_(out, value);
    },
  zeros: (): Initializer => (out) => {
    fill_(out, 0);
  },
};

/** Draws tensors one after another from one seed: each starts where the one before ended, so a model's start depends on the seed alone. */
export class Initialization {
  #offset = 0;
  constructor(
    private readonly device: Device,
    private readonly seed: number,
  ) {}

  make(shape: readonly number[], initializer: Initializer, kind: Kind): Tensor {
    const tensor = outsideScopes(() => Tensor.empty(this.device, shape, { kind }));
    initializer(tensor, this.seed, this.#offset);
    // One counter gives four numbers; a few more than needed keep tensors apart.
    this.#offset += Math.ceil(tensor.size / 4) + 1;
    return tensor;
  }
}
