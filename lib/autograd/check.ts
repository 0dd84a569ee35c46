import { ArgumentError, MethodError } from '../errors';
import { scope } from '../scope';
import type { Tensor } from '../tensor';
import { valueAndGrad } from './value_and_grad';

export interface GradientCheckOptions {
  /** Random directions tried for each parameter. Default 2. */
  directions?: number;
  /** How far from where they are parameters are moved, in their own numbers. Default 0.02: f32 resolves the loss no finer. */
  step?: number;
  /** Largest error, relative to the derivative along the direction. Default 0.02. */
  tolerance?: number;
  /** Of the directions. Default 1. */
  seed?: number;
}

/** A parameter's worst direction. */
export interface GradientCheck {
  name: string;
  /** The derivative along the direction, from the gradient. */
  gradient: number;
  /** The same from differences of the loss. */
  difference: number;
  /** Their distance, as far as f32 resolves it, relative to the larger one. */
  error: number;
}

/** Roundings of the loss that differences see, in units of its last place. */
const roundings = 8;

/**
 * Holds gradients against differences of the loss: along random directions, each leaning towards the gradient so that there is something to see, five-point
 * differences of `body` must be what the gradient says. Parameters have their numbers back afterwards.
 * @param body - returns the loss, f32 of shape [1]; computes the same each time
 * @param parameters - f32, by name
 * @returns a row for each parameter
 * @throws MethodError naming the first parameter whose gradient is wrong; whatever `body` throws
 * @example await autograd.check(() => ops.softmaxCrossEntropy(ops.linear(x, weight), labels).loss, { weight });
 */
export async function check(
  body: () => Tensor,
  parameters: Readonly<Record<string, Tensor>>,
  { directions = 2, step = 0.02, tolerance = 0.02, seed = 1 }: GradientCheckOptions = {},
): Promise<GradientCheck[]> {
  if (!(step > 0)) throw new ArgumentError(`check: 'step' is ${step}, expected a number above 0`, { argument: 'step' });
  const { value, grads } = valueAndGrad(body, parameters);
  value.dispose();
  const draw = uniform(seed);
  const rows: GradientCheck[] = [];
  try {
    for (const [name, tensor] of Object.entries(parameters)) {
      const start = (await tensor.read()) as Float32Array;
      const gradient = (await grads[name]!.read()) as Float32Array;
      let worst: GradientCheck | undefined;
      for (let i = 0; i < directions; i++) {
        const row = await along(body, tensor, start, gradient, step, draw);
        if (!worst || row.error > worst.error) worst = { name, ...row };
      }
      if (worst) rows.push(worst);
      if (worst && !(worst.error <= tolerance)) {
        throw new MethodError(
          `check: the gradient of '${name}' is ${worst.gradient.toPrecision(4)} along a direction, differences of the loss say ${worst.difference.toPrecision(4)}`,
          { kernel: 'check', argument: name, got: String(worst.gradient), expected: String(worst.difference) },
        );
      }
    }
    return rows;
  } finally {
    for (const grad of Object.values(grads)) grad.dispose();
  }
}

async function along(
  body: () => Tensor,
  tensor: Tensor,
  start: Float32Array,
  gradient: Float32Array,
  step: number,
  draw: () => number,
): Promise<Omit<GradientCheck, 'name'>> {
  const largest = gradient.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const raw = gradient.map((value) => value + (largest || 1) * 0.5 * (draw() - 0.5));
  const length = Math.hypot(...raw);
  const direction = raw.map((value) => value / length);
  const lossAt = async (distance: number): Promise<number> => {
    tensor.write(start.map((value, index) => value + distance * direction[index]!));
    using loss = scope(body);
    return (await loss.read())[0]!;
  };
  try {
    const near = (await lossAt(step / 2)) - (await lossAt(-step / 2));
    const ahead = await lossAt(step);
    const far = ahead - (await lossAt(-step));
    const difference = (8 * near - far) / (6 * step);
    const resolution = (roundings * 2 ** -24 * Math.abs(ahead)) / step;
    const exact = direction.reduce((sum, value, index) => sum + value * gradient[index]!, 0);
    const scale = Math.max(Math.abs(exact), Math.abs(difference));
    const error = Math.max(0, Math.abs(exact - difference) - resolution);
    return { gradient: exact, difference, error: scale === 0 ? 0 : error / scale };
  } finally {
    tensor.write(start);
  }
}

// xorshift32.
function uniform(seed: number): () => number {
  let state = seed | 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
