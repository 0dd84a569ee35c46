import { ArgumentError } from '../errors';
import { labelled } from '../label';
import { adamwUpdate_ } from '../ops';
import { outsideScopes } from '../scope';
import { Tensor } from '../tensor';

/** Something to be trained. */
export interface Parameter {
  name: string;
  /** f32 */
  tensor: Tensor;
  /** Whether weight decay applies. */
  decay: boolean;
}

export interface AdamWOptions {
  /** Learning rate. Default 1e-3. */
  lr?: number;
  /** Default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Default 1e-8. */
  eps?: number;
  /** Decoupled decay of parameters that decay: θ ← θ(1 − lr·weightDecay) before the step. Default 0.05. */
  weightDecay?: number;
}

/** What an optimizer remembers of a parameter. */
export interface Moments {
  first: Tensor;
  second: Tensor;
}

/**
 * AdamW (Loshchilov and Hutter, arXiv 1711.05101): Adam with bias correction and decoupled weight decay; parameters that do not decay form a group of their
 * own. Each group is updated in one pass. Keeps two f32 numbers for each parameter.
 */
export class AdamW {
  /** Learning rate of the next update; schedules set it. */
  lr: number;
  /** Updates made. */
  steps = 0;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  readonly #parameters: Parameter[];
  readonly #moments = new Map<string, Moments>();

  constructor(
    parameters: readonly Parameter[],
    { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.05 }: AdamWOptions = {},
  ) {
    const finite = (argument: string, value: number, low: number, high: number): void => {
      if (!(value >= low && value <= high)) {
        throw new ArgumentError(`adamW: '${argument}' is ${value}, expected a number from ${low} to ${high}`, {
          kernel: 'adamW',
          argument,
          got: String(value),
        });
      }
    };
    finite('lr', lr, 0, 1e6);
    finite('eps', eps, 1e-30, 1);
    finite('weightDecay', weightDecay, 0, 1e6);
    for (const beta of betas) finite('betas', beta, 0, 0.999999);
    this.lr = lr;
    this.betas = betas;
    this.eps = eps;
    this.weightDecay = weightDecay;
    this.#parameters = [...parameters];
    outsideScopes(() => {
      for (const { name, tensor } of parameters) {
        const zeros = (): Tensor => Tensor.zeros(tensor.device, tensor.shape, { kind: 'optimizer' });
        this.#moments.set(name, { first: zeros(), second: zeros() });
      }
    });
  }

  /** One update with the gradients by parameter name. */
  update(grads: Readonly<Record<string, Tensor>>): void {
    const step = this.steps + 1;
    for (const decay of [true, false]) {
      const group = this.#parameters.filter((parameter) => parameter.decay === decay);
      if (group.length === 0) continue;
      const gradients = group.map(({ name }) => {
        const grad = grads[name];
        if (!grad) throw new ArgumentError(`adamW: no gradient for '${name}'`, { kernel: 'adamW', argument: name });
        return grad;
      });
      const tensors = {
        parameters: group.map(({ tensor }) => tensor),
        firstMoments: group.map(({ name }) => this.moments(name).first),
        secondMoments: group.map(({ name }) => this.moments(name).second),
        gradients,
      };
      const [beta1, beta2] = this.betas;
      const { lr, eps } = this;
      const weightDecay = decay ? this.weightDecay : 0;
      labelled('update', () => adamwUpdate_(tensors, { lr, beta1, beta2, eps, weightDecay, step }));
    }
    this.steps = step;
  }

  /** The moments of a parameter; checkpoints save them. */
  moments(name: string): Moments {
    const moments = this.#moments.get(name);
    if (!moments) throw new ArgumentError(`adamW: no parameter '${name}'`, { kernel: 'adamW', argument: name });
    return moments;
  }

  dispose(): void {
    for (const { first, second } of this.#moments.values()) {
      first.dispose();
      second.dispose();
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** An {@link AdamW} optimizer. */
export function adamW(parameters: readonly Parameter[], options?: AdamWOptions): AdamW {
  return new AdamW(parameters, options);
}
