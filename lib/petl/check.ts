import { check as checkGradients, type GradientCheck, type GradientCheckOptions } from '../autograd';
import { Device } from '../device';
import { type VitConfig, vit } from '../models';
import * as ops from '../ops';
import type { Method } from './method';
import type { ModelOptions } from './model_options';

export interface MethodCheckOptions extends GradientCheckOptions {
  /** Of the small vision transformer that the method is put on. Default: 3 blocks of width 24, 3 heads, 2 × 2 patches. */
  config?: Partial<VitConfig>;
  /** As of `Device.open`. Default 'cpu'. */
  device?: string;
}

const small = { imageSize: 16, patchSize: 8, dim: 24, depth: 3, heads: 3 };
const [classes, images] = [3, 4];

/**
 * Holds a method's gradients against differences of the loss: on a small vision transformer with random weights, after every parameter has been moved
 * off its start (a start at zero hides mistakes), with activations kept and with blocks run again in backward. Dropout is off.
 * @param options - of the method, such as `{ rank: 2 }`; 'classes' is given
 * @returns a row for each parameter, head included
 * @throws MethodError naming the parameter whose gradient is wrong
 * @example await petl.check(myMethod, { width: 4 });
 */
export async function check<Options>(
  method: Method<Options>,
  options: Partial<ModelOptions & Options> = {},
  { config = {}, device: name, ...checks }: MethodCheckOptions = {},
): Promise<GradientCheck[]> {
  await using device = await Device.open(name);
  const rows: GradientCheck[] = [];
  for (const retain of ['activations', 'block-inputs'] as const) {
    using backbone = vit(device, { ...small, ...config }, { seed: 1 });
    using model = method(backbone, { classes, retain, ...options });
    for (const [index, { tensor }] of model.parameters().entries()) {
      const start = (await tensor.read()) as Float32Array;
      ops.randomNormal_(tensor, { deviation: 0.2, seed: 2, offset: index * 2 ** 20 });
      const noise = (await tensor.read()) as Float32Array;
      tensor.write(start.map((value, i) => value + noise[i]!));
    }
    const side = backbone.config.imageSize;
    const pixels = Float32Array.from({ length: images * 3 * side * side }, (_, i) => ((i * 7919) % 2001) / 1000 - 1);
    const labels = Int32Array.from({ length: images }, (_, i) => i % classes);
    const parameters = Object.fromEntries(model.parameters().map((each) => [each.name, each.tensor]));
    rows.push(...(await checkGradients(() => model.loss({ images: pixels, labels }), parameters, checks)));
  }
  return rows;
}
