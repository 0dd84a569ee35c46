import { ArgumentError } from '../errors';

export interface CosineOptions {
  /** Highest learning rate. */
  lr: number;
  /** Epochs until the cosine reaches its floor. */
  epochs: number;
  /** Rate at the floor. Default 1e-8. */
  lrMin?: number;
  /** Epochs of linear warm-up; they overwrite the beginning of the cosine, as in timm. Default 10. */
  warmupEpochs?: number;
  /** Rate of the first warm-up epoch. Default 1e-7. */
  warmupLr?: number;
}

/**
 * timm's cosine schedule with warm-up, as DTL uses it: the rate in force during epoch e = 0, 1, …, constant within the epoch. From `epochs` on
 * it stays at `lrMin`; DTL runs ten such epochs.
 */
export function cosineSchedule({
  lr,
  epochs,
  lrMin = 1e-8,
  warmupEpochs = 10,
  warmupLr = 1e-7,
}: CosineOptions): (epoch: number) => number {
  for (const [argument, value] of Object.entries({ lr, epochs, lrMin, warmupEpochs, warmupLr })) {
    if (!(Number.isFinite(value) && value >= 0)) {
      throw new ArgumentError(`cosineSchedule: '${argument}' is ${value}, expected a number of at least 0`, {
        kernel: 'cosineSchedule',
        argument,
        got: String(value),
      });
    }
  }
  return (epoch) => {
    if (epoch < warmupEpochs) return warmupLr + (epoch * (lr - warmupLr)) / warmupEpochs;
    if (epoch < epochs) return lrMin + 0.5 * (lr - lrMin) * (1 + Math.cos((Math.PI * epoch) / epochs));
    return lrMin;
  };
}
