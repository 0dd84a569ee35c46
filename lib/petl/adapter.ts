import * as ops from '../ops';
import { define, refuseOption } from './method';

/** Options of Houlsby's adapters. */
export interface AdapterOptions {
  /** Width h of the bottleneck. Default 8. */
  bottleneck: number;
}

/**
 * Adapters (Houlsby et al. 2019) behind both branches of each block, before the residual add: f' = f + W_up GELU(W_down f + b_down) + b_up (METHODS 3.6).
 * W_down starts as PyTorch's Linear, W_up at zero, so the model starts as the backbone.
 */
export const adapter = define<AdapterOptions>(
  'adapter',
  { bottleneck: 8 },
  {
    check: (_backbone, { bottleneck }) => {
      if (!Number.isInteger(bottleneck) || bottleneck < 1)
        refuseOption('adapter', 'bottleneck', bottleneck, 'a whole number of at least 1');
    },

    parameters: ({ config: { dim, depth } }, init, { bottleneck }) =>
      Object.fromEntries(
        Array.from({ length: depth }, (_, i) =>
          ['attn', 'mlp'].flatMap((branch) => [
            [
              `adapter.${i}.${branch}.down.weight`,
              { shape: [bottleneck, dim], init: init.uniform(1 / Math.sqrt(dim)) },
            ],
            [`adapter.${i}.${branch}.down.bias`, { shape: [bottleneck], init: init.zeros() }],
            [`adapter.${i}.${branch}.up.weight`, { shape: [dim, bottleneck], init: init.zeros() }],
            [`adapter.${i}.${branch}.up.bias`, { shape: [dim], init: init.zeros() }],
          ]),
        ).flat(),
      ),

    branch: (i, which, f, _stream, p) => {
      const [down, up] = [`adapter.${i - 1}.${which}.down`, `adapter.${i - 1}.${which}.up`];
      const hidden = ops.linear(f, p[`${down}.weight`]!, p[`${down}.bias`]!, { activation: 'gelu' });
      return ops.linear(hidden, p[`${up}.weight`]!, p[`${up}.bias`]!, { residual: f });
    },

    pool: 'cls',
    pure: true,
  },
);
