import * as ops from '../ops';
import { checkRate, checkWhole, define } from './method';

/** Options of VPT-Shallow and VPT-Deep. */
export interface VptOptions {
  /** Number l of prompts in the sequence. Default 10. */
  prompts: number;
  /** Rate at which numbers of the prompts are dropped in training. Default 0. */
  dropout: number;
}

// Prompts stand between CLS and the patches, without positions; the head leaves them out.
function visualPrompts(name: string, deep: boolean) {
  return define<VptOptions>(
    name,
    { prompts: 10, dropout: 0 },
    {
      check: (_backbone, { prompts, dropout }) => {
        checkWhole(name, 'prompts', prompts, 1);
        checkRate(name, 'dropout', dropout);
      },

      parameters: ({ config: { dim, depth, patchSize } }, init, { prompts }) =>
        Object.fromEntries(
          Array.from({ length: deep ? depth : 1 }, (_, i) => [
            `vpt.${i}.prompt`,
            { shape: [prompts, dim], init: init.uniform(Math.sqrt(6 / (3 * patchSize ** 2 + dim))) },
          ]),
        ),

      tokens: (z, p, context, { dropout }) =>
        ops.insertPrompts(z, context.dropout(p['vpt.0.prompt']!, dropout, 'vpt.0'), {
          at: context.backbone.prefixTokens,
        }),

      beforeBlock: (i, z, p, context, { prompts, dropout }) =>
        deep && i > 1
          ? ops.insertPrompts(z, context.dropout(p[`vpt.${i - 1}.prompt`]!, dropout, `vpt.${i - 1}`), {
              at: context.backbone.prefixTokens,
              replaced: prompts,
            })
          : z,

      drops: ({ dropout }) => dropout > 0,

      prefixTokens: (backbone, { prompts }) => backbone.prefixTokens + prompts,
      pool: 'cls',
      pure: true,
    },
  );
}

/** VPT-Shallow (Jia et al., arXiv 2203.12119): learned tokens enter block 1 with the image's and are carried through all blocks. */
export const vptShallow = visualPrompts('vptShallow', false);

/** VPT-Deep: every block has prompts of its own, which take the place of what the block before made of its. */
export const vptDeep = visualPrompts('vptDeep', true);
