import * as ops from '../ops';
import { type BottleneckOptions, bottleneckParameters, checkBottleneck } from './bottleneck';
import { checkFinite, checkRate, define, type ParameterSpec } from './method';

/** Options of AdaptFormer. */
export interface AdaptFormerOptions extends BottleneckOptions {
  /** s. Default 0.1. */
  scale: number;
  /** Rate at which numbers of the bottleneck are dropped in training. Default 0.1. */
  dropout: number;
}

/**
 * AdaptFormer (Chen et al. 2022): an adapter beside the MLP, on the stream x after attention, without a norm: z = x + MLP(LN x) + s (W_up drop(ReLU(W_down x + b_down)) + b_up).
 * Drop path drops the MLP alone. W_up starts at zero, so the model starts as the backbone.
 */
export const adaptFormer = define<AdaptFormerOptions>(
  'adaptFormer',
  { bottleneck: 8, scale: 0.1, dropout: 0.1 },
  {
    check: (_backbone, options) => {
      checkBottleneck('adaptFormer', options);
      checkFinite('adaptFormer', 'scale', options.scale);
      checkRate('adaptFormer', 'dropout', options.dropout);
    },

    parameters: ({ config: { dim, depth } }, init, options) => {
      const specs: Record<string, ParameterSpec> = {};
      for (let i = 0; i < depth; i++)
        Object.assign(specs, bottleneckParameters(`adaptformer.${i}`, dim, init, options));
      return specs;
    },

    stream: (i, which, x, p, context, { scale, dropout }) => {
      if (which === 'attn') return x;
      const [down, up] = [`adaptformer.${i - 1}.down`, `adaptformer.${i - 1}.up`];
      const active = ops.relu(ops.linear(x, p[`${down}.weight`]!, p[`${down}.bias`]!));
      const hidden = context.dropout(active, dropout, `adaptformer.${i - 1}`);
      // s goes into W_up and b_up, which are small: the product's epilogue adds the stream.
      const [weight, bias] = [ops.scale(p[`${up}.weight`]!, scale), ops.scale(p[`${up}.bias`]!, scale)];
      return ops.linear(hidden, weight, bias, { residual: x });
    },

    drops: ({ dropout }) => dropout > 0,
    perToken: true,
    pool: 'cls',
    pure: true,
  },
);
