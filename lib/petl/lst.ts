import { ArgumentError } from '../errors';
import type { Vit } from '../models';
import { blockLinears, vitShapes } from '../models/vit';
import * as ops from '../ops';
import type { Tensor } from '../tensor';
import { fisherInformation } from './fisher';
import { prunedFrom } from './lst_pruning';
import { checkWhole, define, type ParameterSpec, refuseOption } from './method';
import type { InitializeContext, TrainingBatch } from './model';

/** Options of LST. */
export interface LstOptions {
  /** How many times narrower the side network is than the backbone. Default 8. */
  reduction: number;
  /**
   * What of the backbone its blocks are cut from: weights that matter for the task by Fisher information, which takes images (training gives its own), or the
   * largest weights. Default 'fisher'.
   */
  importance: 'fisher' | 'magnitude';
  /** Images from which Fisher information is summed, at most: the first of the run's order. Default 1024. */
  samples: number;
}

const importances: readonly LstOptions['importance'][] = ['fisher', 'magnitude'];

/** Gates are μ = sigmoid(α / temperature). */
const temperature = 0.1;

/**
 * LST, ladder side tuning (Sung et al., arXiv 2206.06522), for a vision transformer: a narrow transformer beside the backbone reads the tokens
 * behind each block through a gate, and the head reads it alone: c ← Block_i(μ_i c + (1 − μ_i)(D_i z + b_i)). No gradient enters the backbone.
 *
 * `model.initialize({ samples })`, which training calls, gives the side blocks the backbone's weights, pruned by `importance`; without it they start as a
 * transformer does. Fisher information is of the loss that the backbone alone has under the model's new head: a vision transformer has none of its own. The
 * model does not start as the backbone.
 */
export const lst = define<LstOptions>(
  'lst',
  { reduction: 8, importance: 'fisher', samples: 1024 },
  {
    check: ({ config: { dim, heads, hidden } }, { reduction, importance, samples }) => {
      if (!importances.includes(importance)) refuseOption('lst', 'importance', importance, importances.join(' or '));
      checkWhole('lst', 'samples', samples, 1);
      checkWhole('lst', 'reduction', reduction, 1);
      if (dim % reduction || (dim / reduction) % heads || hidden % reduction) {
        const expected = `a divisor of dim = ${dim} and hidden = ${hidden} that leaves each of ${heads} heads whole numbers`;
        refuseOption('lst', 'reduction', reduction, expected);
      }
    },

    parameters: (backbone, init, { reduction }) => {
      const { dim, depth } = backbone.config;
      const side = dim / reduction;
      const specs: Record<string, ParameterSpec> = {};
      const linear = (name: string, outputs: number, inputs: number): void => {
        const bound = 1 / Math.sqrt(inputs);
        specs[`${name}.weight`] = { shape: [outputs, inputs], init: init.uniform(bound) };
        specs[`${name}.bias`] = { shape: [outputs], init: init.uniform(bound) };
      };
      for (let i = 0; i <= depth; i++) linear(`lst.down.${i}`, side, dim);
      for (let i = 0; i < depth; i++) specs[`lst.gate.${i}`] = { shape: [1], init: init.zeros(), decay: false };
      for (const [name, shape] of vitShapes(sideConfig(backbone, reduction))) {
        if (!/^(blocks|norm)\b/.test(name)) continue;
        const start = name.endsWith('bias')
          ? init.zeros()
          : shape.length === 1
            ? init.constant(1)
            : init.normal(0.02, { cut: 2 });
        specs[`lst.${name}`] = { shape, init: start };
      }
      linear('lst.up', dim, side);
      return specs;
    },

    initialize: async (backbone, p, { reduction, importance, samples: count }, context) => {
      const sums =
        importance === 'fisher' ? await fisherInformation(backbone, context, imagesOf(context), count) : undefined;
      try {
        const read = async (name: string): Promise<Float32Array> => (await sums!.get(name)!.read()) as Float32Array;
        const pruned = await prunedFrom(backbone, reduction, sums && read);
        for (const [name, numbers] of pruned) p[`lst.${name}`]!.write(numbers);
      } finally {
        for (const tensor of sums?.values() ?? []) tensor.dispose();
      }
    },

    tokens: (z, p, { state }) => {
      state.c = ops.linear(z, p['lst.down.0.weight']!, p['lst.down.0.bias']!);
      return z;
    },

    afterBlock: (i, z, p, context) => {
      const { state } = context;
      const { heads, layerNormEps: eps } = context.backbone.config;
      const read = ops.linear(z, p[`lst.down.${i}.weight`]!, p[`lst.down.${i}.bias`]!);
      const mixed = ops.gatedMix(state.c!, read, p[`lst.gate.${i - 1}`]!, { temperature });
      state.c!.dispose();
      const weight = (name: string): Tensor => p[`lst.blocks.${i - 1}.${name}`]!;
      state.c = context.block((c) => block(c!, weight, heads, eps), [mixed]);
      return z;
    },

    features: (_z, p, { state, backbone: { config } }) => {
      const [weight, bias] = [p['lst.norm.weight']!, p['lst.norm.bias']!];
      const normalised = ops.layerNorm(state.c!, weight, bias, { eps: config.layerNormEps });
      return ops.linear(normalised, p['lst.up.weight']!, p['lst.up.bias']!);
    },

    finalNorm: false,
    pool: 'cls',
    pure: true,
  },
);

function imagesOf({ samples }: InitializeContext): AsyncIterable<TrainingBatch> {
  if (samples) return samples;
  throw new ArgumentError(
    "petl.lst: importance 'fisher' takes images of the task; expected model.initialize({ samples }), or importance: 'magnitude'",
    { kernel: 'petl.lst', argument: 'samples', got: 'nothing', expected: 'batches of images' },
  );
}

/** The side network as a backbone of its own. */
function sideConfig({ config }: Vit, reduction: number): Vit['config'] {
  return { ...config, dim: config.dim / reduction, hidden: config.hidden / reduction };
}

// An ordinary pre-norm block, all of it trained.
function block(x: Tensor, weight: (name: string) => Tensor, heads: number, eps: number): Tensor {
  const [qkv, proj, fc1, fc2] = blockLinears.map((name) => [weight(`${name}.weight`), weight(`${name}.bias`)] as const);
  const norm = (name: string, input: Tensor): Tensor =>
    ops.layerNorm(input, weight(`${name}.weight`), weight(`${name}.bias`), { eps });
  const attended = ops.attention(ops.linear(norm('norm1', x), ...qkv!), { heads });
  const stream = ops.linear(attended, ...proj!, { residual: x });
  const hidden = ops.linear(norm('norm2', stream), ...fc1!, { activation: 'gelu' });
  return ops.linear(hidden, ...fc2!, { residual: stream });
}
