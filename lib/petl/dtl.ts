import type { Vit } from '../models';
import * as ops from '../ops';
import { checkFinite, checkWhole, define } from './method';

/** Options of DTL and DTL+. */
export interface DtlOptions {
  /** Rank r of the side layers. Default 2. */
  rank: number;
  /** M: the first block (from 1) whose output the side network changes. Default 7. */
  startBlock: number;
  /** β of θ(x) = x·sigmoid(βx). Default 100. */
  beta: number;
}

export interface DtlPlusOptions extends DtlOptions {
  /** Side k of the depthwise kernel that all blocks share. Default 3. */
  kernelSize: number;
}

function check(
  method: string,
  { config }: Vit,
  { rank, startBlock, beta, kernelSize = 1 }: DtlOptions & { kernelSize?: number },
): void {
  checkWhole(method, 'rank', rank, 1, config.dim);
  checkWhole(method, 'startBlock', startBlock, 1, config.depth);
  checkWhole(method, 'kernelSize', kernelSize, 1, 31);
  checkFinite(method, 'beta', beta);
}

function sideNetwork<Options extends DtlOptions>(name: string, defaults: Options) {
  return define<Options>(name, defaults, {
    check: (backbone, options) => check(name, backbone, options),

    // a uniform with bound 1/√d, c zero: the model starts as the frozen backbone. The kernel as PyTorch starts a convolution.
    parameters: ({ config: { dim, depth } }, init, options) => {
      const { rank, kernelSize } = options as Options & Partial<DtlPlusOptions>;
      const layers = Array.from({ length: depth }, (_, i) => [
        [`side.${i}.a`, { shape: [dim, rank], init: init.uniform(1 / Math.sqrt(dim)) }],
        [`side.${i}.c`, { shape: [rank, dim], init: init.zeros() }],
      ]).flat();
      if (kernelSize) {
        layers.push([
          'side.conv.weight',
          { shape: [dim, 1, kernelSize, kernelSize], init: init.uniform(1 / kernelSize) },
        ]);
      }
      return Object.fromEntries(layers);
    },

    // u_i = z_i a_i
    reads: (i, p) => p[`side.${i - 1}.a`],

    // z'_{i+1} = z_{i+1} + g(θ(h_{i+1})) for i ≥ M (eq. 7–9) with h_{i+1} = u_1 c_1 + … + u_i c_i (eq. 5), which is never formed: of the state that all
    // blocks add to, the r numbers a token and block lie in memory.
    afterBlock: (i, z, p, { state, backbone: { config, grid, prefixTokens } }, { startBlock, beta }) => {
      if (i < startBlock) return z;
      const names = Array.from({ length: i }, (_, j) => `u${j + 1}`);
      const us = names.map((name) => state[name]!);
      const cs = names.map((_, j) => p[`side.${j}.c`]!);
      const weight = p['side.conv.weight'];
      const out = ops.sideInjectLowRank(z, us, cs, weight ? { beta, weight, grid, prefixTokens } : { beta });
      if (i === config.depth) {
        for (const name of names) {
          state[name]!.dispose();
          delete state[name];
        }
      }
      return out;
    },

    // The authors' names and layouts: Linear weights [r, d] and [d, r] where we have a [d, r] and c [r, d].
    fileName: (name) => {
      const side = /^side\.(\d+)\.([ac])$/.exec(name);
      if (side) return { key: `lora_dict.${side[1]}.lora_${side[2] === 'a' ? 'A' : 'B'}`, transpose: true };
      return { key: name === 'side.conv.weight' ? 'lora_fusion.weight' : name };
    },

    pure: true,
    additive: true,
    frozenBlocks: (_backbone, { startBlock }) => startBlock,
  });
}

/**
 * DTL: one low-rank side layer per block, added to the stream from block M on (arXiv 2312.07856). Backward runs through blocks M+1 … depth only.
 */
export const dtl = sideNetwork<DtlOptions>('dtl', { rank: 2, startBlock: 7, beta: 100 });

/** DTL+: DTL with one depthwise convolution over the patch grid, shared by all blocks; CLS passes by it. */
export const dtlPlus = sideNetwork<DtlPlusOptions>('dtlPlus', { rank: 2, startBlock: 7, beta: 100, kernelSize: 3 });

/** DTL+*: DTL+ that changes the stream after every block (M = 1). */
export const dtlPlusStar = sideNetwork<DtlPlusOptions>('dtlPlusStar', {
  rank: 2,
  startBlock: 1,
  beta: 100,
  kernelSize: 3,
});
