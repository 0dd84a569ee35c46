import * as ops from '../ops';
import { type BottleneckOptions, bottleneckParameters, checkBottleneck } from './bottleneck';
import { define, type ParameterSpec } from './method';

/** Options of Houlsby's adapters. */
export type AdapterOptions = BottleneckOptions;

/**
 * Adapters (Houlsby et al. 2019) behind both branches of each block, before the residual add: f' = f + W_up GELU(W_down f + b_down) + b_up.
 * W_up starts at zero, so the model starts as the backbone.
 */
export const adapter = define<AdapterOptions>(
  'adapter',
  { bottleneck: 8 },
  {
    check: (_backbone, options) => checkBottleneck('adapter', options),

    parameters: ({ config: { dim, depth } }, init, options) => {
      const specs: Record<string, ParameterSpec> = {};
      for (let i = 0; i < depth; i++) {
        for (const branch of ['attn', 'mlp'])
          Object.assign(specs, bottleneckParameters(`adapter.${i}.${branch}`, dim, init, options));
      }
      return specs;
    },

    branch: (i, which, f, _stream, p) => {
      const [down, up] = [`adapter.${i - 1}.${which}.down`, `adapter.${i - 1}.${which}.up`];
      const hidden = ops.linear(f, p[`${down}.weight`]!, p[`${down}.bias`]!, { activation: 'gelu' });
      return ops.linear(hidden, p[`${up}.weight`]!, p[`${up}.bias`]!, { residual: f });
    },

    perToken: true,
    pool: 'cls',
    pure: true,
  },
);
