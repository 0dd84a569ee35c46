import { type ForwardContext, init } from '../models';
import * as ops from '../ops';
import type { Tensor } from '../tensor';
import { checkFinite, checkRate, checkWhole, define, type ParameterSpec, refuseOption } from './method';

/** Options of FacT-TT and FacT-TK. */
export interface FactOptions {
  /** Rank r of the factors. Default 16 (FacT-TT), 32 (FacT-TK). */
  rank: number;
  /** s. Default 1. */
  scale: number;
  /** Rate at which the r-wide numbers are dropped in training. Default 0.1. */
  dropout: number;
}

/** The small matrices of a linear layer as Linear weights [out, in]: of the d × d slices that it is made of, those that share an input stand together. */
type Sigmas = (layer: string, block: number, p: Readonly<Record<string, Tensor>>) => Tensor[];

/** Layers whose input is four slices of d wide, not one. */
const wide = 'mlp.fc2';

/**
 * FacT (Jie and Deng 2023): the changes of all matrices of all blocks, cut into d × d slices, are one tensor, and that is held in factors. U: d → r and
 * V: r → d are shared by all slices; each slice has an r × r matrix Σ between them: y += s V(drop(Σ U x)). V starts at zero, so the
 * model starts as the backbone, and merges into it.
 */
function factorTuning(
  name: string,
  defaults: FactOptions,
  inner: (dim: number, depth: number, rank: number) => Record<string, ParameterSpec>,
  sigmas: Sigmas,
) {
  return define<FactOptions>(name, defaults, {
    check: ({ config }, { rank, scale, dropout }) => {
      checkWhole(name, 'rank', rank, 1, config.dim);
      checkFinite(name, 'scale', scale);
      checkRate(name, 'dropout', dropout);
      if (config.hidden !== 4 * config.dim) {
        refuseOption(name, 'backbone', `an MLP of width ${config.hidden}`, `one of 4·dim = ${4 * config.dim}`);
      }
    },

    parameters: ({ config: { dim, depth } }, _init, { rank }) => ({
      'fact.u.weight': { shape: [rank, dim], init: init.uniform(1 / Math.sqrt(dim)) },
      'fact.v.weight': { shape: [dim, rank], init: init.zeros() },
      ...inner(dim, depth, rank),
    }),

    linear: (place, x, y, p, context, { rank, scale, dropout }) => {
      const [, block, layer] = /^blocks\.(\d+)\.(.+)$/.exec(place)!;
      const { dim } = context.backbone.config;
      // Slices stand side by side in a row of tokens: the rows of a slice are the rows of the tensor seen d wide.
      const u = ops.linear(layer === wide ? asRows(x, dim) : x, p['fact.u.weight']!);
      const input = layer === wide ? ops.reshape(u, [...x.shape.slice(0, -1), 4 * rank]) : u;
      const v = scale === 1 ? p['fact.v.weight']! : ops.scale(p['fact.v.weight']!, scale);
      return add(y, sigmas(layer!, Number(block), p), input, v, { context, dropout, place });
    },

    drops: ({ dropout }) => dropout > 0,
    mergeable: true,
    perToken: true,
    pool: 'cls',
    pure: true,
  });
}

function asRows(x: Tensor, width: number): Tensor {
  return ops.reshape(x, [x.size / width, width]);
}

// y += V(drop(Σ u)), in place. One Σ for all slices of y: one product for them all; else slice by slice.
function add(
  y: Tensor,
  weights: Tensor[],
  u: Tensor,
  v: Tensor,
  { context, dropout, place }: { context: ForwardContext; dropout: number; place: string },
): Tensor {
  const [dim, rank] = v.shape as [number, number];
  let sum = y;
  for (const [index, weight] of weights.entries()) {
    const t = context.dropout(ops.linear(u, weight), dropout, `${place}.${index}`);
    const slices = weight.shape[0]! / rank;
    sum =
      slices === 1
        ? ops.linearAdd_(sum, t, v, { column: index * dim })
        : ops.reshape(ops.linearAdd_(asRows(sum, dim), asRows(t, rank), v), y.shape);
  }
  return sum;
}

/** Σ by the name of what it makes; q, k and v are read from one input. */
const parts: Record<string, readonly string[]> = {
  'attn.qkv': ['q', 'k', 'v'],
  'attn.proj': ['proj'],
  'mlp.fc1': ['fc1'],
  'mlp.fc2': ['fc2'],
};

/** FacT-TT: each slice has a Σ of its own. */
export const factTt = factorTuning(
  'factTt',
  { rank: 16, scale: 1, dropout: 0.1 },
  (_dim, depth, rank) => {
    const specs: Record<string, ParameterSpec> = {};
    for (let i = 0; i < depth; i++) {
      for (const part of Object.values(parts).flat()) {
        const shape = part === 'fc1' ? [4 * rank, rank] : part === 'fc2' ? [rank, 4 * rank] : [rank, rank];
        specs[`fact.${i}.${part}.weight`] = { shape, init: init.uniform(1 / Math.sqrt(shape[1]!)) };
      }
    }
    return specs;
  },
  (layer, block, p) => parts[layer]!.map((part) => p[`fact.${block}.${part}.weight`]!),
);

/** FacT-TK: Σ_t[a,b] = Σ_c C[a,b,c] P[c,t]; a core C is shared by all slices, and a column of P makes a slice's Σ of it. */
export const factTk = factorTuning(
  'factTk',
  { rank: 32, scale: 1, dropout: 0.1 },
  (_dim, depth, rank) => ({
    'fact.c': { shape: [rank, rank, rank], init: init.uniform(Math.sqrt(3) / rank) },
    'fact.p': { shape: [rank, 12 * depth], init: init.uniform(Math.sqrt(6 / (12 * depth + rank))) },
  }),
  (layer, block, p) => {
    const { first, count, layout } = slices[layer as keyof typeof slices];
    return [ops.factorContract(p['fact.c']!, p['fact.p']!, { column: 12 * block + first, count, layout })];
  },
);

/** A block's columns of P; the authors' code reads those of fc1 and fc2 interleaved. */
const slices = {
  'attn.qkv': { first: 0, count: 3, layout: 'rows' },
  'attn.proj': { first: 3, count: 1, layout: 'rows' },
  'mlp.fc1': { first: 4, count: 4, layout: 'interleaved_rows' },
  'mlp.fc2': { first: 8, count: 4, layout: 'interleaved_columns' },
} as const satisfies Record<
  string,
  { first: number; count: number; layout: NonNullable<ops.FactorContractOptions['layout']> }
>;
