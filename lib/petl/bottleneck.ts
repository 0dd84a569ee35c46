import type { init as initializers } from '../models';
import { checkWhole, type ParameterSpec } from './method';

/** Options of methods with a bottleneck. */
export interface BottleneckOptions {
  /** Width h of the bottleneck. Default 8. */
  bottleneck: number;
}

export function checkBottleneck(method: string, { bottleneck }: BottleneckOptions): void {
  checkWhole(method, 'bottleneck', bottleneck, 1);
}

/** d → h → d with biases: W_down starts as PyTorch's Linear, W_up at zero, so that nothing comes out at first. */
export function bottleneckParameters(
  name: string,
  dim: number,
  init: typeof initializers,
  { bottleneck }: BottleneckOptions,
): Record<string, ParameterSpec> {
  return {
    [`${name}.down.weight`]: { shape: [bottleneck, dim], init: init.uniform(1 / Math.sqrt(dim)) },
    [`${name}.down.bias`]: { shape: [bottleneck], init: init.zeros() },
    [`${name}.up.weight`]: { shape: [dim, bottleneck], init: init.zeros() },
    [`${name}.up.bias`]: { shape: [dim], init: init.zeros() },
  };
}
