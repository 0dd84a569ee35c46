import type { init as initializers, Vit } from '../models';
import * as ops from '../ops';
import type { Tensor } from '../tensor';
import { checkRate, checkWhole, define, type MethodDefinition, type ParameterSpec, refuseOption } from './method';

/** How large each module is, block by block; 0: the block has none. */
export interface NoahSizes {
  /** Prompts l that the block writes at the end of the sequence. */
  prompt: number[];
  /** Rank r of LoRA on the fused qkv. */
  lora: number[];
  /** Width h of the adapter behind the MLP. */
  adapter: number[];
}

export const noahModules = ['prompt', 'lora', 'adapter'] as const;

export interface NoahOptions {
  /** What the modules of each block measure; one number means every module of every block. Default 5. */
  sizes: NoahSizes | number;
  /** Rate of dropout on prompts, on LoRA's input and in the adapter, in training. Default 0.1. */
  dropout: number;
}

export interface NoahSupernetOptions extends NoahOptions {
  /** Room of every module's tensors. Default 10. */
  maxSize: number;
  /** What the next pass uses, at most `maxSize`; the lists may be changed in place between passes. Default: all of it. */
  sizes: NoahSizes | number;
}

/** The same size for every module of every block. */
export function uniformSizes(depth: number, size: number): NoahSizes {
  const list = (): number[] => new Array<number>(depth).fill(size);
  return { prompt: list(), lora: list(), adapter: list() };
}

/** Trained numbers of a subnet, the head excluded: Σ l d + Σ 4 d r + Σ (2 d h + h + d) over the blocks that have an adapter. */
export function noahParameterCount(dim: number, { prompt, lora, adapter }: NoahSizes): number {
  const sum = (sizes: readonly number[], each: (size: number) => number): number =>
    sizes.reduce((total, size) => total + (size > 0 ? each(size) : 0), 0);
  return sum(prompt, (l) => l * dim) + sum(lora, (r) => 4 * dim * r) + sum(adapter, (h) => 2 * dim * h + h + dim);
}

function listed({ config }: Vit, sizes: NoahSizes | number): NoahSizes {
  return typeof sizes === 'number' ? uniformSizes(config.depth, sizes) : sizes;
}

/** A block's tensors and their shapes; those of size 0 are absent. */
function shapesOf(dim: number, block: number, { prompt, lora, adapter }: NoahSizes): Record<string, number[]> {
  const [l, r, h] = [prompt[block]!, lora[block]!, adapter[block]!];
  return {
    ...(l > 0 ? { prompt: [l, dim] } : {}),
    ...(r > 0 ? { 'lora.a': [r, dim], 'lora.b': [3 * dim, r] } : {}),
    ...(h > 0
      ? {
          'adapter.down.weight': [h, dim],
          'adapter.down.bias': [h],
          'adapter.up.weight': [dim, h],
          'adapter.up.bias': [dim],
        }
      : {}),
  };
}

// Prompts as Xavier has them, what reads tokens as PyTorch starts a Linear, what writes at zero.
function specsOf(
  { config: { dim, depth } }: Vit,
  init: typeof initializers,
  sizes: NoahSizes,
): Record<string, ParameterSpec> {
  const specs: Record<string, ParameterSpec> = {};
  for (let block = 0; block < depth; block++) {
    for (const [name, shape] of Object.entries(shapesOf(dim, block, sizes))) {
      const reads = name === 'lora.a' || name === 'adapter.down.weight';
      const bound = name === 'prompt' ? Math.sqrt(6 / (shape[0]! + dim)) : 1 / Math.sqrt(dim);
      specs[`noah.${block}.${name}`] = { shape, init: name === 'prompt' || reads ? init.uniform(bound) : init.zeros() };
    }
  }
  return specs;
}

function check(method: string, backbone: Vit, options: NoahOptions, most?: number): void {
  const { depth } = backbone.config;
  checkRate(method, 'dropout', options.dropout);
  if (typeof options.sizes === 'number') checkWhole(method, 'sizes', options.sizes, 0, most);
  const sizes = listed(backbone, options.sizes);
  if (sizes === null || typeof sizes !== 'object' || Array.isArray(sizes)) {
    refuseOption(method, 'sizes', JSON.stringify(sizes), 'a whole number, or { prompt, lora, adapter }');
  }
  for (const module of noahModules) {
    const list: unknown = sizes[module];
    const good = (size: unknown): boolean =>
      Number.isInteger(size) && Number(size) >= 0 && !(Number(size) > (most ?? Infinity));
    if (Array.isArray(list) && list.length === depth && list.every(good)) continue;
    const range = most === undefined ? 'of at least 0' : `from 0 to ${most}`;
    refuseOption(
      method,
      `sizes.${module}`,
      JSON.stringify(list),
      `${depth} whole numbers ${range}, one for each block`,
    );
  }
}

/**
 * A block is: prompts, attention with LoRA, MLP with the adapter behind it. A subnet's tensors are as large as they are used, the supernet's
 * have room for more, of which a pass takes the first part.
 */
function hooks<Options extends NoahOptions>() {
  const sizesOf = (backbone: Vit, { sizes }: Options): NoahSizes => listed(backbone, sizes);
  const blockOf = (name: string): number => Number(name.split('.')[1]);
  const taker = (p: Readonly<Record<string, Tensor>>, backbone: Vit, block: number, sizes: NoahSizes) => {
    const shapes = shapesOf(backbone.config.dim, block, sizes);
    return (name: string): Tensor => {
      const [tensor, shape] = [p[`noah.${block}.${name}`]!, shapes[name]!];
      if (shape.every((length, axis) => length === tensor.shape[axis])) return tensor;
      const [rows, columns] = shape.length === 1 ? [1, shape[0]!] : [shape[0]!, shape[1]!];
      return ops.slice(tensor, { rows: [0, rows], columns: [0, columns] });
    };
  };
  return {
    // A block's prompts take the place of those that came before; a block without leaves them there. They have no positions, so it makes no difference
    // that they stand behind CLS here and at the end in the paper.
    beforeBlock: (i, z, p, context, options) => {
      const { backbone } = context;
      const sizes = sizesOf(backbone, options);
      if (sizes.prompt[i - 1] === 0) return z;
      const prompts = taker(p, backbone, i - 1, sizes)('prompt');
      return ops.insertPrompts(z, context.dropout(prompts, options.dropout, `noah.${i - 1}.prompt`), {
        at: backbone.prefixTokens,
        replaced: z.shape[1]! - backbone.tokens,
      });
    },

    touches: (name, { sizes }) =>
      name.endsWith('.attn.qkv') && (typeof sizes === 'number' ? sizes : sizes.lora[blockOf(name)]!) > 0,
    linear: (name, x, y, p, context, options) => {
      const block = blockOf(name);
      const take = taker(p, context.backbone, block, sizesOf(context.backbone, options));
      const input = context.dropout(x, options.dropout, `noah.${block}.lora`);
      return ops.linearAdd_(y, ops.linear(input, take('lora.a')), take('lora.b'));
    },

    // Behind drop path, as its authors have it: an image whose MLP is dropped still gets what the adapter makes of zeros.
    dropped: (i, which, f, p, context, options) => {
      const sizes = sizesOf(context.backbone, options);
      if (which === 'attn' || sizes.adapter[i - 1] === 0) return f;
      const take = taker(p, context.backbone, i - 1, sizes);
      const down = ops.linear(f, take('adapter.down.weight'), take('adapter.down.bias'));
      const hidden = context.dropout(ops.swish(down, { beta: 1.702 }), options.dropout, `noah.${i - 1}.adapter`);
      return ops.linear(hidden, take('adapter.up.weight'), take('adapter.up.bias'), { residual: f });
    },

    prefixTokens: (backbone, options) =>
      backbone.prefixTokens + ([...sizesOf(backbone, options).prompt].reverse().find((l) => l > 0) ?? 0),
    drops: ({ dropout }) => dropout > 0,
    perToken: true,
    pool: 'cls',
  } satisfies Partial<MethodDefinition<Options>>;
}

/**
 * A subnet of NOAH (Zhang, Zhou and Liu, arXiv 2206.04673): prompts, LoRA and adapters together, of sizes that may differ from block to block. With LoRA's B and
 * W_up at zero it starts as the backbone with prompts in it. Drop path drops the MLP, and its adapter reads
 * what is left of it. {@link searchNoah} finds sizes.
 */
export const noah = define<NoahOptions>(
  'noah',
  { sizes: 5, dropout: 0.1 },
  {
    ...hooks<NoahOptions>(),
    check: (backbone, options) => check('noah', backbone, options),
    parameters: (backbone, init, { sizes }) => specsOf(backbone, init, listed(backbone, sizes)),
    pure: true,
  },
);

/** NOAH's supernet: every subnet up to a size in one model, which trains them all; passes use what `sizes` says. */
export const noahSupernet = define<NoahSupernetOptions>(
  'noahSupernet',
  { maxSize: 10, sizes: 10, dropout: 0.1 },
  {
    ...hooks<NoahSupernetOptions>(),
    check: (backbone, options) => {
      checkWhole('noahSupernet', 'maxSize', options.maxSize, 1);
      check('noahSupernet', backbone, options, options.maxSize);
    },
    // A pass does without the modules that it has at size 0.
    parameters: (backbone, init, { maxSize }) => {
      const specs = specsOf(backbone, init, uniformSizes(backbone.config.depth, maxSize));
      return Object.fromEntries(Object.entries(specs).map(([name, spec]) => [name, { ...spec, optional: true }]));
    },
  },
);
