import { checkpoint, block as named } from '../autograd';
import { needs } from '../autograd/tape';
import type { Device } from '../device';
import { ArgumentError } from '../errors';
import * as ops from '../ops';
import { type MlpWeights, PackedWeight } from '../ops';
import { outsideScopes } from '../scope';
import { Tensor } from '../tensor';
import type { ForwardContext, Hooks } from './hooks';

/**
 * What a backbone computes in. 'int8': frozen matrices in 8 bits with a scale for each output, tokens rounded to 8 bits row by row on their way into a product,
 * everything else as in 'bf16'. Blocks that gradients flow through are computed in bf16 while training, with the same rounded weights.
 */
export type ComputeDtype = 'f32' | 'bf16' | 'int8';

export const computeDtypes: readonly ComputeDtype[] = ['f32', 'bf16', 'int8'];

export interface VitConfig {
  /** Side of the square images, in pixels. */
  imageSize: number;
  patchSize: number;
  /** Width d of the tokens. */
  dim: number;
  /** Number of blocks. */
  depth: number;
  heads: number;
  /** Width of the MLP. Default 4·dim. */
  hidden: number;
  layerNormEps: number;
}

/** Where gradients flow through a frozen block, how much of its forward is kept for them. */
export type Retain = 'activations' | 'block-inputs';

export interface ForwardOptions {
  hooks: Hooks;
  context: ForwardContext;
  /** Tensors by name that stand in for the frozen ones: trained, or with a method folded in. */
  standIns: ReadonlyMap<string, Tensor | PackedWeight>;
  retain: Retain;
  /** Blocks from 1 on that run again in backward instead of keeping what side layers read there. */
  recomputedBlocks: number;
  /**
   * What the caller reads of the tokens. 'cls': no hook behind an attention minds the others' absence, and where no gradient wants them the last
   * block computes none of them from there on. `meanFrom`: the mean of the tokens from that one on, and what `afterBlock` adds does not depend on
   * them: the last block takes the mean before the MLP's last layer. Default 'all'.
   */
  wanted?: 'all' | 'cls' | { meanFrom: number };
}

/** Linear layers of a block, in their order. */
export const blockLinears = ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'] as const;
const blockNorms = ['norm1', 'norm2'] as const;

/** Every tensor of the backbone without its head, in timm's names, with its shape. */
export function vitShapes({ imageSize, patchSize, dim, depth, hidden }: VitConfig): Map<string, number[]> {
  const patches = (imageSize / patchSize) ** 2;
  const shapes = new Map<string, number[]>([
    ['cls_token', [1, 1, dim]],
    ['pos_embed', [1, patches + 1, dim]],
    ['patch_embed.proj.weight', [dim, 3, patchSize, patchSize]],
    ['patch_embed.proj.bias', [dim]],
  ]);
  const linears: Record<(typeof blockLinears)[number], [number, number]> = {
    'attn.qkv': [3 * dim, dim],
    'attn.proj': [dim, dim],
    'mlp.fc1': [hidden, dim],
    'mlp.fc2': [dim, hidden],
  };
  for (let i = 0; i < depth; i++) {
    for (const norm of blockNorms) {
      shapes.set(`blocks.${i}.${norm}.weight`, [dim]);
      shapes.set(`blocks.${i}.${norm}.bias`, [dim]);
    }
    for (const linear of blockLinears) {
      shapes.set(`blocks.${i}.${linear}.weight`, linears[linear]);
      shapes.set(`blocks.${i}.${linear}.bias`, [linears[linear][0]]);
    }
  }
  shapes.set('norm.weight', [dim]);
  shapes.set('norm.bias', [dim]);
  return shapes;
}

/** Weights that are matrices in a GEMM: held once, packed for it, in the compute dtype. */
export function isMatrix(name: string): boolean {
  return blockLinears.some((linear) => name.endsWith(`.${linear}.weight`));
}

/** A plain matrix (taken over) packed for the GEMM; any other tensor as it is. */
export function place(name: string, plain: Tensor, dtype: ComputeDtype): Tensor | PackedWeight {
  if (!isMatrix(name)) return plain;
  const packed = ops.packWeight(plain, { dtype: dtype === 'int8' ? 'i8' : dtype });
  plain.dispose();
  return packed;
}

/** Fills in defaults and refuses what is no vision transformer. */
export function completeConfig(
  config: Partial<VitConfig> & Pick<VitConfig, 'imageSize' | 'patchSize' | 'dim' | 'depth' | 'heads'>,
): VitConfig {
  const complete = { hidden: 4 * config.dim, layerNormEps: 1e-6, ...config };
  const refuse = (argument: string, got: unknown, expected: string): never => {
    throw new ArgumentError(`vit: '${argument}' is ${String(got)}, expected ${expected}`, {
      kernel: 'vit',
      argument,
      got: String(got),
      expected,
    });
  };
  for (const name of ['imageSize', 'patchSize', 'dim', 'depth', 'heads', 'hidden'] as const) {
    const value = complete[name];
    if (!Number.isInteger(value) || value < 1) refuse(name, value, 'a whole number of at least 1');
  }
  if (complete.imageSize % complete.patchSize)
    refuse('imageSize', complete.imageSize, `a multiple of patchSize = ${complete.patchSize}`);
  if (complete.dim % complete.heads) refuse('dim', complete.dim, `a multiple of heads = ${complete.heads}`);
  return complete;
}

/**
 * A vision transformer's frozen body: patches, CLS and positions, pre-norm blocks, final norm. Matrices are packed for the GEMM in the compute
 * dtype, everything else is f32. The head belongs to the task, not to the backbone.
 */
export class Vit {
  readonly prefixTokens = 1;
  /** @internal Use `models.vit` or `models.load`. */
  constructor(
    readonly device: Device,
    readonly config: VitConfig,
    readonly dtype: ComputeDtype,
    /** Where the weights come from; adapters remember it. */
    readonly name: string,
    /** Tells backbones apart: a hash of the weights as they were loaded, or of how random ones were drawn. */
    readonly fingerprint: string,
    private readonly tensors: Map<string, Tensor | PackedWeight>,
  ) {}

  /** Dtype of the tokens. */
  get tokenDtype(): 'f32' | 'bf16' {
    return this.dtype === 'int8' ? 'bf16' : this.dtype;
  }

  /** Rows and columns of the patch grid. */
  get grid(): [number, number] {
    const side = this.config.imageSize / this.config.patchSize;
    return [side, side];
  }

  /** Tokens of an image: CLS and patches. */
  get tokens(): number {
    return this.grid[0] * this.grid[1] + this.prefixTokens;
  }

  names(): string[] {
    return [...this.tensors.keys()];
  }

  /** Numbers in the backbone, the head excluded. */
  get parameterCount(): number {
    let count = 0;
    for (const shape of vitShapes(this.config).values())
      count += shape.reduce((product, length) => product * length, 1);
    return count;
  }

  /** The tensor as plain f32 [shape of timm], a copy of its own: to train it, to save it. */
  plain(name: string, kind: 'weights' | 'side' = 'weights'): Tensor {
    const tensor = this.tensors.get(name);
    if (!tensor) throw this.#missing(name);
    return outsideScopes(() => {
      if (!(tensor instanceof Tensor)) return ops.unpackWeight(tensor, { dtype: 'f32', kind });
      const copy = Tensor.empty(this.device, tensor.shape, { kind });
      copy.copyFrom(tensor);
      return copy;
    });
  }

  /** A frozen tensor that is no matrix, f32, shared. */
  frozen(name: string): Tensor {
    const tensor = this.tensors.get(name);
    if (!(tensor instanceof Tensor)) throw this.#missing(name);
    return tensor;
  }

  /** @internal The frozen matrices under other handles, to be disposed with what backward derives from them. */
  matrices(): Map<string, PackedWeight> {
    const handles = new Map<string, PackedWeight>();
    for (const [name, tensor] of this.tensors) if (tensor instanceof PackedWeight) handles.set(name, tensor.borrow());
    return handles;
  }

  #missing(name: string): ArgumentError {
    return new ArgumentError(
      `Vit: no tensor '${name}' here (a method that trains the backbone takes its tensors over)`,
      {
        argument: 'name',
        got: name,
      },
    );
  }

  /** Lets go of a frozen tensor whose trained stand-in is used from now on. */
  release(name: string): void {
    this.tensors.get(name)?.dispose();
    this.tensors.delete(name);
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
    this.tensors.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Images [B, 3, H, W] (f32, normalised; taken over) → tokens [B, N, d] after the last block, with a method's hooks. [B, 1, d] where CLS alone is wanted and
   * no gradient flows through the last block; [B, 1, d] in f32 where a mean is wanted and no hook between the last attention and there minds.
   */
  forward(images: Tensor, options: ForwardOptions): Tensor {
    const { hooks, context } = options;
    const weight = (name: string): Tensor | PackedWeight => {
      const tensor = options.standIns.get(name) ?? this.tensors.get(name);
      if (!tensor) throw this.#missing(name);
      return tensor;
    };
    const plain = (name: string): Tensor => weight(name) as Tensor;

    let z = named('embed', () => this.#embed(images, plain, options));
    images.dispose();
    const { depth } = this.config;
    const run = (from: number, to: number, start: Tensor): Tensor => {
      let tokens = start;
      for (let i = from; i <= to; i++) tokens = named(`block ${i}`, () => this.#step(i, tokens, weight, options));
      return tokens;
    };
    const recomputed = Math.min(options.recomputedBlocks, depth);
    if (recomputed > 0) {
      // What side layers carry out of the prefix (h) comes out of the checkpoint beside the tokens; both runs of it start with nothing carried.
      const first = z;
      let names: string[] = [];
      const [tokens, ...carried] = checkpoint(
        (start) => {
          for (const name of Object.keys(context.state)) delete context.state[name];
          const result = run(1, recomputed, start!.alias());
          names = Object.keys(context.state);
          return [result, ...names.map((name) => context.state[name]!)];
        },
        [first],
      );
      for (const [index, name] of names.entries()) context.state[name] = carried[index]!;
      first.dispose();
      z = tokens!;
    }
    z = run(recomputed + 1, depth, z);
    if (!hooks.features) return z;
    return replace(z, hooks.features(z, context));
  }

  #embed(images: Tensor, plain: (name: string) => Tensor, { hooks, context }: ForwardOptions): Tensor {
    let patches = ops.patchEmbed(images, plain('patch_embed.proj.weight'), plain('patch_embed.proj.bias'), {
      dtype: this.tokenDtype,
    });
    if (hooks.patches) patches = replace(patches, hooks.patches(patches, context));
    const z = ops.embedTokens(patches, plain('cls_token'), plain('pos_embed'));
    patches.dispose();
    return hooks.tokens ? replace(z, hooks.tokens(z, context)) : z;
  }

  // One block with the hooks around it; takes over `z`.
  #step(i: number, z: Tensor, weight: (name: string) => Tensor | PackedWeight, options: ForwardOptions): Tensor {
    const { hooks, context, retain } = options;
    const before = hooks.beforeBlock ? replace(z, hooks.beforeBlock(i, z, context)) : z;
    const a = hooks.reads?.(i, context);
    const keep = (u: Tensor): void => {
      context.state[`u${i}`] = u;
    };
    let after: Tensor;
    if (retain === 'block-inputs') {
      // What runs again in backward does so for the tokens' sake alone.
      if (a) keep(ops.lowRankProject(before, a));
      after = checkpoint((input) => this.#block(i, input!, weight, options), [before]);
    } else {
      after = this.#block(i, before, weight, options, a && { a, keep });
    }
    before.dispose();
    const isBehind = hooks.afterBlock && this.#meanFrom(i, options) === undefined;
    return isBehind ? replace(after, hooks.afterBlock!(i, after, context)) : after;
  }

  // Where block i takes the mean of its tokens before the MLP's last layer: the first of them. A block that runs again in backward runs without the hook
  // behind it.
  #meanFrom(i: number, { hooks, retain, wanted }: ForwardOptions): number | undefined {
    if (i !== this.config.depth || typeof wanted !== 'object') return undefined;
    if (hooks.stream || hooks.branch || hooks.dropped || (hooks.afterBlock && retain === 'block-inputs'))
      return undefined;
    const isTouched = hooks.linear && (hooks.touches?.(`blocks.${i - 1}.mlp.fc2`) ?? true);
    return isTouched ? undefined : wanted.meanFrom;
  }

  #block(
    i: number,
    z: Tensor,
    weight: (name: string) => Tensor | PackedWeight,
    options: ForwardOptions,
    side?: { a: Tensor; keep(u: Tensor): void },
  ): Tensor {
    const { hooks, context, wanted } = options;
    const plain = (name: string): Tensor => weight(name) as Tensor;
    const prefix = `blocks.${i - 1}`;
    const { heads, layerNormEps: eps } = this.config;

    // No hook is shown the stream between the branches: then it need not be kept, nor a frozen MLP's sum apart from it.
    const unread = !hooks.stream && !hooks.branch;
    const norm = (name: string, x: Tensor): Tensor => {
      const [gamma, beta] = [plain(`${prefix}.${name}.weight`), plain(`${prefix}.${name}.bias`)];
      let y: Tensor;
      if (side && name === 'norm1') {
        const both = ops.layerNormProject(x, gamma, beta, side.a, { eps });
        y = both.out;
        side.keep(both.u);
      } else {
        y = ops.layerNorm(x, gamma, beta, { eps, compact: name === 'norm2' && unread });
      }
      return hooks.norm ? replace(y, hooks.norm(`${prefix}.${name}`, y, context)) : y;
    };
    const touched = (name: string): boolean =>
      hooks.linear !== undefined && (hooks.touches?.(`${prefix}.${name}`) ?? true);
    const linear = (
      name: string,
      x: Tensor,
      { activation = 'none', residual }: { activation?: 'none' | 'gelu'; residual?: Tensor } = {},
    ): Tensor => {
      const full = `${prefix}.${name}`;
      const [matrix, bias] = [weight(`${full}.weight`), plain(`${full}.bias`)];
      if (!touched(name)) return ops.linear(x, matrix, bias, { activation, residual });
      // A method that changes what a linear layer gives takes its epilogue apart.
      const y = ops.linear(x, matrix, bias);
      let result = replace(y, hooks.linear!(full, x, y, context));
      if (activation !== 'none') result = replace(result, ops.gelu(result));
      if (residual) result = replace(result, ops.add(residual, result));
      return result;
    };
    // x + branch: in the GEMM's epilogue where nothing comes between, else after the method's hook and drop path.
    const branch = (
      which: 'attn' | 'mlp',
      stream: Tensor,
      input: Tensor,
      last: (input: Tensor, residual?: Tensor) => Tensor,
    ): Tensor => {
      const keepScale = context.dropPath(i, which);
      const target = hooks.stream ? hooks.stream(i, which, stream, context) : stream;
      let result: Tensor;
      if (!keepScale && !hooks.branch && !hooks.dropped) {
        result = last(input, target);
      } else {
        let y = last(input);
        if (hooks.branch) y = replace(y, hooks.branch(i, which, y, stream, context));
        if (hooks.dropped) {
          if (keepScale) y = replace(y, ops.scaleImages(y, keepScale));
          y = replace(y, hooks.dropped(i, which, y, context));
        }
        const sum = keepScale && !hooks.dropped ? ops.residualAdd(target, y, keepScale) : ops.add(target, y);
        result = replace(y, sum);
      }
      if (target !== stream) target.dispose();
      return result;
    };
    const proj = (x: Tensor, residual?: Tensor): Tensor => linear('attn.proj', x, residual ? { residual } : {});
    const fc2 = (x: Tensor, residual?: Tensor): Tensor => linear('mlp.fc2', x, residual ? { residual } : {});
    const then = (x: Tensor, next: (x: Tensor) => Tensor): Tensor => replace(x, next(x));

    const first = norm('norm1', z);
    const [matrix, bias] = [weight(`${prefix}.attn.qkv.weight`), plain(`${prefix}.attn.qkv.bias`)];
    // One call where gradients flow through a frozen layer; elsewhere it is leaner that its input goes before attention comes.
    const joined = matrix instanceof PackedWeight && !touched('attn.qkv') && needs({ first }) && !needs({ bias });
    // Behind the last attention tokens do not meet again.
    const isLast = wanted === 'cls' && i === this.config.depth;
    const lone =
      isLast && !touched('attn.qkv') && !needs({ z, first, bias, ...(matrix instanceof Tensor && { matrix }) });
    const rows = (): Tensor => (matrix instanceof PackedWeight ? matrix.plain(this.tokenDtype) : matrix);
    const heeded = lone
      ? then(
          then(first, (x) => ops.classAttention(x, rows(), bias, { heads })),
          asTokens,
        )
      : joined
        ? then(first, (x) => ops.projectedAttention(x, matrix, bias, { heads }))
        : then(
            then(first, (x) => linear('attn.qkv', x)),
            (qkv) => ops.attention(qkv, { heads }),
          );
    const alone = isLast && !needs({ z, heeded });
    const [stream, mixed] = alone ? [cls(z), lone ? heeded : then(heeded, cls)] : [z, heeded];
    const attended = then(mixed, (x) => branch('attn', stream, x, proj));
    if (stream !== z) stream.dispose();
    const [weight1, weight2] = [weight(`${prefix}.mlp.fc1.weight`), weight(`${prefix}.mlp.fc2.weight`)];
    const [bias1, bias2] = [plain(`${prefix}.mlp.fc1.bias`), plain(`${prefix}.mlp.fc2.bias`)];
    const frozen = weight1 instanceof PackedWeight && weight2 instanceof PackedWeight && !needs({ bias1, bias2 });
    const weights = { weight1, bias1, weight2, bias2 } as MlpWeights;
    const meanFrom = this.#meanFrom(i, options);
    if (meanFrom !== undefined) {
      // What the hook behind the block adds is added here.
      const target = hooks.afterBlock ? hooks.afterBlock(i, attended, context) : attended;
      const row = meanOf(target, meanFrom, 'f32');
      if (target !== attended) target.dispose();
      const normalised = norm('norm2', attended);
      attended.dispose();
      const mean = (x: Tensor, residual?: Tensor): Tensor => {
        const y =
          frozen && !touched('mlp.fc1')
            ? then(ops.mlpMean(x, weights, { prefixTokens: meanFrom }), asTokens)
            : then(
                then(linear('mlp.fc1', x, { activation: 'gelu' }), (hidden) =>
                  meanOf(hidden, meanFrom, this.tokenDtype),
                ),
                fc2,
              );
        const exact = y.dtype === 'f32' ? y : replace(y, ops.cast(y, 'f32'));
        return residual ? replace(exact, ops.add(residual, exact)) : exact;
      };
      const result = then(normalised, (x) => branch('mlp', row, x, mean));
      row.dispose();
      return result;
    }
    const mlp = (x: Tensor): Tensor => {
      // Layers that are trained or looked into are calls of their own.
      if (!frozen || touched('mlp.fc1') || touched('mlp.fc2')) {
        return then(linear('mlp.fc1', x, { activation: 'gelu' }), (hidden) => branch('mlp', attended, hidden, fc2));
      }
      const scales = { gamma: plain(`${prefix}.norm2.weight`), beta: plain(`${prefix}.norm2.bias`) };
      const inPlace = unread && attended.dtype === 'bf16' && !needs(scales);
      return branch('mlp', attended, x, (input, residual) => ops.mlp(input, weights, residual, { inPlace }));
    };
    const result = then(norm('norm2', attended), mlp);
    attended.dispose();
    return result;
  }
}

/** The first token of each image, [B, 1, d]. */
function cls(z: Tensor): Tensor {
  const rows = ops.pool(z, { mode: 'first', dtype: z.dtype as 'f32' | 'bf16' });
  return replace(rows, asTokens(rows));
}

/** The mean of each image's tokens from `first` on, [B, 1, d]. */
function meanOf(z: Tensor, first: number, dtype: 'f32' | 'bf16'): Tensor {
  const rows = ops.pool(z, { mode: 'mean', prefixTokens: first, dtype });
  return replace(rows, asTokens(rows));
}

/** [B, d] as images of one token each. */
function asTokens(rows: Tensor): Tensor {
  const [batch, dim] = rows.shape as [number, number];
  return ops.reshape(rows, [batch, 1, dim]);
}

/** `next` takes the place of `previous`, which goes unless it is the same tensor. */
function replace(previous: Tensor, next: Tensor): Tensor {
  if (next !== previous) previous.dispose();
  return next;
}
