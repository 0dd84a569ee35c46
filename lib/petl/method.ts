import { ArgumentError } from '../errors';
import type { ForwardContext, Hooks, Initializer, Vit } from '../models';
import { init } from '../models';
import type { Tensor } from '../tensor';
import { guarded } from './guard';
import { type InitializeContext, PetlModel } from './model';
import type { ModelOptions } from './model_options';
import { registerMethod } from './registry';

/** A trainable tensor that a method adds. */
export interface ParameterSpec {
  shape: readonly number[];
  init: Initializer;
  /** Whether weight decay applies. Default: yes, unless the name ends in 'bias'. */
  decay?: boolean;
  /** A pass may do without it, and then its gradient is 0. Default false: a parameter that no gradient reaches is an error. */
  optional?: boolean;
}

type Parameters = Readonly<Record<string, Tensor>>;

/**
 * A parameter-efficient fine-tuning method: what it trains, and what it does at the named places of the backbone ({@link Hooks}). Every method of this
 * package is written with nothing else.
 */
export interface MethodDefinition<Options> {
  /** The parameters that the method adds, each declared once, by name. */
  parameters?(backbone: Vit, initializers: typeof init, options: Options): Record<string, ParameterSpec>;
  /** Which of the backbone's own tensors it trains. Default: none. */
  trains?(name: string, options: Options): boolean;
  patches?(x: Tensor, p: Parameters, context: ForwardContext, options: Options): Tensor;
  tokens?(z: Tensor, p: Parameters, context: ForwardContext, options: Options): Tensor;
  beforeBlock?(i: number, z: Tensor, p: Parameters, context: ForwardContext, options: Options): Tensor;
  /** May leave a block out: undefined. */
  reads?(i: number, p: Parameters, context: ForwardContext, options: Options): Tensor | undefined;
  norm?(name: string, y: Tensor, p: Parameters, context: ForwardContext, options: Options): Tensor;
  linear?(name: string, x: Tensor, y: Tensor, p: Parameters, context: ForwardContext, options: Options): Tensor;
  /** Which linear layers `linear` is for; the others keep their fused kernels. Default: all. */
  touches?(name: string, options: Options): boolean;
  branch?(
    i: number,
    which: 'attn' | 'mlp',
    y: Tensor,
    stream: Tensor,
    p: Parameters,
    context: ForwardContext,
    options: Options,
  ): Tensor;
  dropped?(
    i: number,
    which: 'attn' | 'mlp',
    y: Tensor,
    p: Parameters,
    context: ForwardContext,
    options: Options,
  ): Tensor;
  stream?(
    i: number,
    which: 'attn' | 'mlp',
    stream: Tensor,
    p: Parameters,
    context: ForwardContext,
    options: Options,
  ): Tensor;
  afterBlock?(i: number, z: Tensor, p: Parameters, context: ForwardContext, options: Options): Tensor;
  features?(z: Tensor, p: Parameters, context: ForwardContext, options: Options): Tensor;
  /** Blocks from 1 on whose tokens depend on nothing trained; `prefix: 'recompute'` runs them again in backward. Default 0. */
  frozenBlocks?(backbone: Vit, options: Options): number;
  /** Tokens that stand before the patches after the last block; pools of patches leave them out. Default: the backbone's, CLS. */
  prefixTokens?(backbone: Vit, options: Options): number;
  /** Whether the backbone's final norm stands before the head. Default true; false where `features` has a norm of its own. */
  finalNorm?: boolean;
  /**
   * Whether the hooks that come behind a block's attention (`norm`, `linear`, `branch`, `dropped`, `stream`, `afterBlock`, `features`) do the same to each token,
   * whatever the others are. Then inference at CLS computes no other token behind the last attention, and they see [B, 1, d] there. Default: whether
   * the method has none of them.
   */
  perToken?: boolean;
  /**
   * Whether `afterBlock` only adds to the tokens, and what it adds does not depend on them. Then, where the head reads the mean of the patches, the last
   * block's is added before its MLP, whose last layer is computed for that mean alone. Default false.
   */
  additive?: boolean;
  /** Whether its hooks call `context.dropout` in training. Default: no. */
  drops?(options: Options): boolean;
  /**
   * Whether it can be folded into the backbone: it acts through `patches`, `norm` and `linear` alone, what comes out of them is affine in what goes in,
   * and for `patches` and `norm` channel by channel. Default false.
   */
  mergeable?: boolean;
  /**
   * Initial values that are made from the backbone's weights, which takes reading them, or from images of the task: `model.initialize()` runs it, and so does
   * training before its first step. It writes when all that can fail has been done.
   */
  initialize?(backbone: Vit, p: Parameters, options: Options, context: InitializeContext): Promise<void>;
  /** Refuses options that make no sense, with an ArgumentError. */
  check?(backbone: Vit, options: Options): void;
  /** How a parameter is called in files, where that differs: the authors' name, and whether their layout is the transpose of ours. */
  fileName?(parameter: string): { key: string; transpose?: boolean };
  /**
   * Whether the hooks do the same in every pass of a batch size: they depend on nothing but their arguments, write no numbers and draw none. Then passes are
   * recorded and replayed, which saves the time that JavaScript takes for each call. Default false.
   */
  pure?: boolean;
  /** Where the method's head reads. Default 'patch_mean_then_norm'. */
  pool?: ModelOptions['pool'];
}

/** A method, ready to be put on a backbone. */
export type Method<Options> = (backbone: Vit, options: ModelOptions & Partial<Options>) => PetlModel;

const hookNames = [
  'patches',
  'tokens',
  'beforeBlock',
  'reads',
  'norm',
  'linear',
  'branch',
  'dropped',
  'stream',
  'afterBlock',
  'features',
] as const;

const behindAttention = ['norm', 'linear', 'branch', 'dropped', 'stream', 'afterBlock', 'features'] as const;

const modelOptions = ['classes', 'pool', 'dropPath', 'retain', 'prefix', 'seed', 'labelSmoothing', 'labels', 'replay'];

/**
 * Defines a method.
 * @param name - what tables, files and errors call it
 * @param defaults - the method's own options with their defaults; an option that is not among them is refused
 * @example
 * const gated = petl.define('gated', { strength: 1 }, {
 *   parameters: ({ config }, init) => ({ 'gate.weight': { shape: [config.dim], init: init.zeros() } }),
 *   afterBlock: (i, z, p) => …,
 * });
 * const model = gated(backbone, { classes: 10 });
 */
export function define<Options extends object>(
  name: string,
  defaults: Options,
  definition: MethodDefinition<Options>,
): Method<Options> {
  const method: Method<Options> = (backbone, given) => {
    const known = [...modelOptions, ...Object.keys(defaults)];
    for (const option of Object.keys(given)) {
      if (!known.includes(option)) {
        throw new ArgumentError(`petl.${name}: unknown option '${option}', known: ${known.join(', ')}`, {
          kernel: `petl.${name}`,
          argument: option,
        });
      }
    }
    const options = { ...defaults, ...definedOnly(given) };
    definition.check?.(backbone, options);
    const hooks: Hooks = {};
    for (const hook of hookNames) {
      const body = definition[hook] as ((...args: unknown[]) => unknown) | undefined;
      if (!body) continue;
      // Hooks of the model end in the context; a method's own get the parameters before it and the options after it.
      (hooks as Record<string, unknown>)[hook] = guarded(name, hook, (args, context) =>
        body(...args, context.parameters, context, options),
      );
    }
    if (definition.touches) hooks.touches = (layer) => definition.touches!(layer, options);
    const own = Object.fromEntries(Object.keys(defaults).map((key) => [key, options[key as keyof Options]]));
    return new PetlModel(backbone, {
      method: name,
      methodOptions: own,
      specs: definition.parameters?.(backbone, init, options) ?? {},
      trains: (tensor) => definition.trains?.(tensor, options) ?? false,
      hooks,
      pure: definition.pure ?? false,
      frozenBlocks: definition.frozenBlocks?.(backbone, options) ?? 0,
      prefixTokens: () => definition.prefixTokens?.(backbone, options) ?? backbone.prefixTokens,
      finalNorm: definition.finalNorm ?? true,
      perToken: definition.perToken ?? !behindAttention.some((hook) => hooks[hook]),
      additive: definition.additive ?? false,
      drops: definition.drops?.(options) ?? false,
      mergeable: definition.mergeable ?? false,
      initialize: async (parameters, context) => definition.initialize?.(backbone, parameters, options, context),
      fileName: definition.fileName ?? ((tensor) => ({ key: tensor })),
      options: { ...(definition.pool ? { pool: definition.pool } : {}), ...modelOptionsOf(given) } as ModelOptions,
    });
  };
  registerMethod(name, method as (backbone: Vit, options: ModelOptions) => PetlModel);
  return method;
}

function modelOptionsOf(given: object): object {
  return Object.fromEntries(Object.entries(definedOnly(given)).filter(([name]) => modelOptions.includes(name)));
}

/** @internal Without the options that are undefined. */
export function definedOnly<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

/** Refuses an option; for use in {@link MethodDefinition.check}. */
export function refuseOption(method: string, option: string, got: unknown, expected: string): never {
  throw new ArgumentError(`petl.${method}: '${option}' is ${String(got)}, expected ${expected}`, {
    kernel: `petl.${method}`,
    argument: option,
    got: String(got),
    expected,
  });
}

/** Refuses a rate of dropout that is none. */
export function checkRate(method: string, option: string, got: number): void {
  if (!(got >= 0 && got < 1)) refuseOption(method, option, got, 'a number from 0 to below 1');
}

/** Refuses an option that is no finite number. */
export function checkFinite(method: string, option: string, got: number): void {
  if (!Number.isFinite(got)) refuseOption(method, option, got, 'a finite number');
}

/** Refuses an option that is no whole number from `low` to `high`. */
export function checkWhole(method: string, option: string, got: number, low: number, high?: number): void {
  if (Number.isInteger(got) && got >= low && !(high !== undefined && got > high)) return;
  refuseOption(
    method,
    option,
    got,
    `a whole number ${high === undefined ? `of at least ${low}` : `from ${low} to ${high}`}`,
  );
}
