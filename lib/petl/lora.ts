import * as ops from '../ops';
import { checkFinite, checkRate, checkWhole, define, type ParameterSpec } from './method';

/** Options of LoRA. */
export interface LoraOptions {
  /** Rank r. Default 8. */
  rank: number;
  /** s, often written α/r. Default 1. */
  scale: number;
  /** Rate at which numbers of the layer's input are dropped on their way into A in training. Default 0.1. */
  dropout: number;
}

/** Where q and v stand in the fused qkv. */
const targets = { q: 0, v: 2 };

/**
 * LoRA (Hu et al., arXiv 2106.09685) on q and v: q += s (drop(x) Aᵀ) Bᵀ, x behind the first norm. B starts at zero, so the model starts as the
 * backbone, and merges into it.
 */
export const lora = define<LoraOptions>(
  'lora',
  { rank: 8, scale: 1, dropout: 0.1 },
  {
    check: ({ config }, { rank, scale, dropout }) => {
      checkWhole('lora', 'rank', rank, 1, config.dim);
      checkFinite('lora', 'scale', scale);
      checkRate('lora', 'dropout', dropout);
    },

    parameters: ({ config: { dim, depth } }, init, { rank }) => {
      const specs: Record<string, ParameterSpec> = {};
      for (let i = 0; i < depth; i++) {
        for (const target in targets) {
          specs[`lora.${i}.${target}.a`] = { shape: [rank, dim], init: init.uniform(1 / Math.sqrt(dim)) };
          specs[`lora.${i}.${target}.b`] = { shape: [dim, rank], init: init.zeros() };
        }
      }
      return specs;
    },

    touches: (name) => name.endsWith('.attn.qkv'),
    linear: (name, x, y, p, context, { scale, dropout }) => {
      const input = context.dropout(x, dropout, name);
      const block = `lora.${name.split('.')[1]}`;
      let sum = y;
      for (const [target, third] of Object.entries(targets)) {
        const [a, b] = [p[`${block}.${target}.a`]!, p[`${block}.${target}.b`]!];
        sum = ops.linearAdd_(sum, ops.linear(input, a), scale === 1 ? b : ops.scale(b, scale), {
          column: third * context.backbone.config.dim,
        });
      }
      return sum;
    },

    drops: ({ dropout }) => dropout > 0,
    mergeable: true,
    perToken: true,
    pool: 'cls',
    pure: true,
  },
);
