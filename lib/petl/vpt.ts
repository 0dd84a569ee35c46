import * as ops from '../ops';
import { checkWhole, define } from './method';

/** Options of VPT-Shallow and VPT-Deep. */
export interface VptOptions {
  /** Number l of prompts in the sequence. Default 10. */
  prompts: number;
}

// Prompts stand between CLS and the patches, without positions; the head leaves them out.
function visualPrompts(name: string, deep: boolean) {
  return define<VptOptions>(
    name,
    { prompts: 10 },
    {
      check: (_backbone, { prompts }) => checkWhole(name, 'prompts', prompts, 1),

      parameters: ({ config: { dim, depth, patchSize } }, init, { prompts }) =>
        Object.fromEntries(
          Array.from({ length: deep ? depth : 1 }, (_, i) => [
            `vpt.${i}.prompt`,
            { shape: [prompts, dim], init: init.uniform(Math.sqrt(6 / (3 * patchSize ** 2 + dim))) },
          ]),
        ),

      tokens: (z, p, { backbone }) => ops.insertPrompts(z, p['vpt.0.prompt']!, { at: backbone.prefixTokens }),

      beforeBlock: (i, z, p, { backbone }, { prompts }) =>
        deep && i > 1
          ? ops.insertPrompts(z, p[`vpt.${i - 1}.prompt`]!, { at: backbone.prefixTokens, replaced: prompts })
          : z,

      prefixTokens: (backbone, { prompts }) => backbone.prefixTokens + prompts,
      pool: 'cls',
      pure: true,
    },
  );
}

/** VPT-Shallow (Jia et al., arXiv 2203.12119): learned tokens enter block 1 with the image's and are carried through all blocks (METHODS 3.4). */
export const vptShallow = visualPrompts('vptShallow', false);

/** VPT-Deep: every block has prompts of its own, which take the place of what the block before made of its (METHODS 3.5). */
export const vptDeep = visualPrompts('vptDeep', true);
