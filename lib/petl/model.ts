import { checkpoint, block as named, type Retained, valueAndGrad } from '../autograd';
import type { Device } from '../device';
import { ArgumentError, MethodError, SidetuneError } from '../errors';
import { type ForwardContext, type Hooks, type Retain, saveVit, type Vit } from '../models';
import { Initialization, init } from '../models/initializers';
import { isMatrix } from '../models/vit';
import * as ops from '../ops';
import { PackedWeight } from '../ops';
import type { AdamW, Parameter } from '../optim';
import { keep, outsideScopes, scope } from '../scope';
import { Tensor } from '../tensor';
import { saveAdapter } from './adapter_file';
import { imageInput, labelInput } from './inputs';
import { mergedTensors } from './merge';
import type { ParameterSpec } from './method';
import { Passes, type PassInput } from './passes';

/** Where the head reads: CLS after the final norm; the mean of the patches, then the norm; the norm, then the mean of the patches. */
export type Pool = 'cls' | 'patch_mean_then_norm' | 'norm_then_patch_mean';

export interface ModelOptions {
  /** Number of classes of the task. */
  classes: number;
  /** Names of the classes; kept with the adapter. */
  labels?: readonly string[];
  /** Default: the method's own, 'patch_mean_then_norm' for DTL. */
  pool?: Pool;
  /** Rate of stochastic depth at the last block; it grows linearly from 0 at the first. Default 0. */
  dropPath?: number;
  /** 'activations' (default): fast. 'block-inputs': blocks that gradients flow through run again in backward. */
  retain?: Retain;
  /** What side layers read in blocks that nothing flows back through: 'keep' (default) it, or 'recompute' those blocks in backward. */
  prefix?: 'keep' | 'recompute';
  /** Of initial values and drop path. Default 0. */
  seed?: number;
  /**
   * Passes of a batch size that came before are replayed as they were recorded ({@link Device.record}), where the method is pure. Default true; false makes
   * every call anew. The numbers are the same to the bit.
   */
  replay?: boolean;
  /** Share of each label spread over all classes. Default 0. */
  labelSmoothing?: number;
}

/** A batch as the data loaders make it. */
export interface TrainingBatch {
  /** [B, 3, H, W], normalised. */
  images: Float32Array;
  labels: Int32Array;
}

export interface StepResult {
  /** Mean loss of the batch before the step. */
  loss: number;
  /** How many images were classified rightly before the step. */
  correct: number;
  images: number;
}

/** @internal What `define` hands over. */
export interface ModelBlueprint {
  method: string;
  methodOptions: Record<string, unknown>;
  specs: Record<string, ParameterSpec>;
  trains(name: string): boolean;
  hooks: Hooks;
  pure: boolean;
  frozenBlocks: number;
  prefixTokens(): number;
  finalNorm: boolean;
  drops: boolean;
  mergeable: boolean;
  initialize(parameters: Readonly<Record<string, Tensor>>): Promise<void>;
  fileName(parameter: string): { key: string; transpose?: boolean };
  options: ModelOptions;
}

/** What is random in a training pass. */
interface Randomness {
  /** Drop path's masks by block and branch: '3.attn'. */
  masks: Readonly<Record<string, Tensor>>;
  /** The number of the step, i32 [1], for methods that drop numbers. */
  step: Tensor | undefined;
}

export const pools: readonly Pool[] = ['cls', 'patch_mean_then_norm', 'norm_then_patch_mean'];
// Drop path's counters lie far from those of initial values.
const dropPathBase = 2 ** 44;
const dropPathStride = 2 ** 14;

function checkOptions(
  method: string,
  { classes, pool, dropPath, retain, prefix, seed, labelSmoothing, labels }: ModelOptions,
): void {
  const refuse = (argument: string, got: unknown, expected: string): never => {
    const text = typeof got === 'string' ? `'${got}'` : String(got);
    throw new ArgumentError(`petl.${method}: '${argument}' is ${text}, expected ${expected}`, {
      kernel: `petl.${method}`,
      argument,
      got: String(got),
      expected,
    });
  };
  const oneOf = (argument: string, got: unknown, choices: readonly string[]): void => {
    if (got !== undefined && !choices.includes(got as string)) refuse(argument, got, `one of ${choices.join(', ')}`);
  };
  if (!Number.isInteger(classes) || classes < 1) refuse('classes', classes, 'a whole number of at least 1');
  oneOf('pool', pool, pools);
  oneOf('retain', retain, ['activations', 'block-inputs']);
  oneOf('prefix', prefix, ['keep', 'recompute']);
  if (dropPath !== undefined && !(dropPath >= 0 && dropPath < 1))
    refuse('dropPath', dropPath, 'a number from 0 to below 1');
  if (seed !== undefined && !(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32))
    refuse('seed', seed, 'a whole number from 0 to 4294967295');
  if (labelSmoothing !== undefined && !(labelSmoothing >= 0 && labelSmoothing < 1)) {
    refuse('labelSmoothing', labelSmoothing, 'a number from 0 to below 1');
  }
  if (labels && labels.length !== classes) refuse('labels', `${labels.length} names`, `${classes} names`);
}

/**
 * A backbone with a method and a head: what `petl.dtl(backbone, …)` and its like return. The frozen backbone is shared, not copied, and not disposed with
 * the model.
 */
export class PetlModel {
  readonly backbone: Vit;
  readonly device: Device;
  readonly method: string;
  /** The method's own options, defaults filled in. */
  readonly methodOptions: Readonly<Record<string, unknown>>;
  readonly options: Readonly<Required<Omit<ModelOptions, 'labels'>> & Pick<ModelOptions, 'labels'>>;
  /** What the last training step's tape kept between forward and backward. */
  retained: Retained[] = [];
  /** @internal Whether {@link initialize} has nothing more to do. */
  initialized = false;
  /** Training steps made; drop path's masks and dropout depend on it. */
  steps = 0;

  readonly #blueprint: ModelBlueprint;
  readonly #own: Record<string, Tensor> = {}; // the method's parameters
  readonly #trained = new Map<string, Tensor>(); // the backbone's tensors that are trained
  #merged: Map<string, Tensor | PackedWeight> | undefined; // the backbone's tensors with the method folded in
  readonly #head: { weight: Tensor; bias: Tensor };
  readonly #buffers = new Map<string, Tensor>();
  readonly #passes: Passes;
  readonly #retained = new Map<string, Retained[]>(); // by pass

  /** @internal Use a method: `petl.dtl(backbone, options)`. */
  constructor(backbone: Vit, blueprint: ModelBlueprint) {
    checkOptions(blueprint.method, blueprint.options);
    const rounded =
      backbone.dtype === 'int8' && backbone.names().find((name) => blueprint.trains(name) && isMatrix(name));
    if (rounded) {
      throw new ArgumentError(
        `petl.${blueprint.method}: the backbone's '${rounded}' is in int8, expected f32 or bf16: rounded weights cannot be trained`,
        { kernel: `petl.${blueprint.method}`, argument: 'backbone', got: 'int8', expected: 'f32 or bf16' },
      );
    }
    this.backbone = backbone;
    this.device = backbone.device;
    this.method = blueprint.method;
    this.methodOptions = blueprint.methodOptions;
    this.options = {
      pool: 'patch_mean_then_norm',
      dropPath: 0,
      retain: 'activations',
      prefix: 'keep',
      seed: 0,
      replay: true,
      labelSmoothing: 0,
      ...blueprint.options,
    };
    this.#blueprint = blueprint;
    this.#passes = new Passes(this.device, blueprint.pure && this.options.replay);

    const random = new Initialization(this.device, this.options.seed);
    const { dim } = backbone.config;
    const { classes } = this.options;
    const trained = backbone.names().filter((name) => blueprint.trains(name));
    checkNames(blueprint.method, Object.keys(blueprint.specs), trained);
    const made: Tensor[] = [];
    const make = (tensor: Tensor): Tensor => {
      made.push(tensor);
      return tensor;
    };
    try {
      const weight = make(random.make([classes, dim], init.normal(0.02, { cut: 2 }), 'side'));
      this.#head = { weight, bias: make(random.make([classes], init.zeros(), 'side')) };
      for (const [name, spec] of Object.entries(blueprint.specs))
        this.#own[name] = make(declared(blueprint.method, name, () => random.make(spec.shape, spec.init, 'side')));
      for (const name of trained) this.#trained.set(name, make(backbone.plain(name)));
    } catch (error) {
      for (const tensor of made) tensor.dispose();
      throw error;
    }
    // What is large is held once. Vectors stay, so that other models can use the backbone beside one that trains biases.
    for (const name of trained) if (this.#trained.get(name)!.shape.length > 1) backbone.release(name);
  }

  /**
   * Gives the method's parameters the initial values that it makes from the backbone's weights, where it has such; once, and not after they were read from a
   * file. Training does so by itself before the first step.
   */
  async initialize(): Promise<void> {
    if (this.initialized) return;
    await this.#blueprint.initialize(this.#own);
    this.initialized = true;
  }

  /** Everything that is trained: the method's parameters, the backbone's trained tensors, the head. */
  parameters(): Parameter[] {
    const { specs } = this.#blueprint;
    const decays = (name: string): boolean => !name.endsWith('bias');
    return [
      ...Object.entries(this.#own).map(([name, tensor]) => ({
        name,
        tensor,
        decay: specs[name]!.decay ?? decays(name),
      })),
      ...[...this.#trained].map(([name, tensor]) => ({
        name,
        tensor,
        decay: tensor.shape.length > 1 && name !== 'cls_token' && name !== 'pos_embed',
      })),
      { name: 'head.weight', tensor: this.#head.weight, decay: true },
      { name: 'head.bias', tensor: this.#head.bias, decay: false },
    ];
  }

  /** Numbers that are trained, the head excluded, as the field counts them. */
  get parameterCount(): number {
    return this.parameters()
      .filter(({ name }) => !name.startsWith('head.'))
      .reduce((sum, { tensor }) => sum + tensor.size, 0);
  }

  /** @internal What a parameter is called in adapter files. */
  fileName(parameter: string): { key: string; transpose?: boolean } {
    return this.#blueprint.fileName(parameter);
  }

  /**
   * Writes everything trained, head included, to a safetensors file with the configuration in its metadata; `petl.load` reads it back. Whole or not at all.
   * @throws FileError
   */
  async save(path: string): Promise<void> {
    await saveAdapter(this, path);
  }

  #context(batch: number, random?: Randomness): ForwardContext {
    const { method } = this;
    const { retain, seed } = this.options;
    return {
      backbone: this.backbone,
      batch,
      training: random !== undefined,
      parameters: this.#own,
      state: {},
      buffer: (name, shape) => this.#buffer(name, shape),
      dropout: (x, rate, place) => {
        if (!random || rate === 0) return x;
        if (random.step) return ops.dropout(x, random.step, { rate, seed, stream: hash(place) });
        throw new MethodError(`petl.${method}: a hook drops numbers, but the definition's 'drops' does not say so`, {
          kernel: `petl.${method}`,
          argument: 'drops',
        });
      },
      block: (body, inputs) => (retain === 'block-inputs' ? checkpoint(body, inputs) : body(...inputs)),
      dropPath: (i, which) => random?.masks[`${i}.${which}`]?.alias(),
    };
  }

  // The masks of this step, one for each branch that may be dropped, and its number.
  #random(batch: number): Record<string, PassInput> {
    const { depth } = this.backbone.config;
    const { dropPath, seed } = this.options;
    const inputs: Record<string, PassInput> = {};
    for (let i = 1; i <= depth; i++) {
      const rate = depth > 1 ? (dropPath * (i - 1)) / (depth - 1) : dropPath;
      if (rate === 0) continue;
      for (const [index, which] of ['attn', 'mlp'].entries()) {
        const offset = dropPathBase + ((this.steps * depth + i - 1) * 2 + index) * dropPathStride;
        const fill = (out: Tensor): void => void ops.randomKeep_(out, { keep: 1 - rate, seed, offset });
        inputs[`${i}.${which}`] = { shape: [batch], fill };
      }
    }
    if (this.#blueprint.drops) {
      inputs.step = { shape: [1], dtype: 'i32', fill: (out) => out.write(Int32Array.of(this.steps)) };
    }
    return inputs;
  }

  // One tensor for each name and shape, made once: the same address in every step.
  #buffer(name: string, shape: readonly number[]): Tensor {
    const key = `${name} ${shape.join('x')}`;
    let tensor = this.#buffers.get(key);
    if (!tensor) {
      tensor = outsideScopes(() => Tensor.empty(this.device, shape, { kind: 'side' }));
      this.#buffers.set(key, tensor);
    }
    return tensor;
  }

  // Runs a pass; when it fails, the buffers that were made for it go too.
  #pass<T>(run: () => T): T {
    const before = new Set(this.#buffers.keys());
    try {
      return run();
    } catch (error) {
      for (const [key, tensor] of this.#buffers) {
        if (before.has(key)) continue;
        tensor.dispose();
        this.#buffers.delete(key);
      }
      throw error;
    }
  }

  #logits(images: Tensor, random?: Randomness): Tensor {
    const { frozenBlocks, prefixTokens, finalNorm } = this.#blueprint;
    const { pool, retain, prefix } = this.options;
    const { layerNormEps: eps } = this.backbone.config;
    const context = this.#context(images.shape[0]!, random);
    const hooks = this.#merged ? {} : this.#blueprint.hooks;
    const z = this.backbone.forward(images, {
      hooks,
      context,
      standIns: this.#merged ? new Map([...this.#trained, ...this.#merged]) : this.#trained,
      retain,
      recomputedBlocks: random && prefix === 'recompute' ? frozenBlocks : 0,
    });
    const norm = (x: Tensor): Tensor => {
      if (!finalNorm) return x;
      const y = ops.layerNorm(x, this.#tensor('norm.weight'), this.#tensor('norm.bias'), { eps });
      return hooks.norm ? hooks.norm('norm', y, context) : y;
    };
    const mean = (x: Tensor): Tensor => ops.pool(x, { mode: 'mean', prefixTokens: prefixTokens() });
    return named('head', () => {
      // The norm works row by row: for CLS it is enough to normalise that row.
      const feature =
        pool === 'cls'
          ? norm(ops.pool(z, { mode: 'first' }))
          : pool === 'patch_mean_then_norm'
            ? norm(mean(z))
            : mean(norm(z));
      return ops.linear(feature, this.#head.weight, this.#head.bias);
    });
  }

  // The backbone's tensor, or what has been trained of it, f32, to be disposed.
  #plain(name: string): Tensor {
    return outsideScopes(() => this.#trained.get(name)?.alias()) ?? this.backbone.plain(name);
  }

  #tensor(name: string): Tensor {
    return (this.#merged?.get(name) as Tensor | undefined) ?? this.#trained.get(name) ?? this.backbone.frozen(name);
  }

  /**
   * Logits [B, classes], f32, of images [B, 3, H, W]: differentiable inside `autograd.valueAndGrad`, with nothing dropped.
   * @throws ShapeError for images of another size, or none at all
   */
  forward(images: Tensor | Float32Array): Tensor {
    const inputs = { images: imageInput(this.backbone.config.imageSize, images) };
    return this.#pass(() =>
      this.#passes.run(`forward ${inputs.images.shape[0]}`, inputs, (given) => scope(() => this.#logits(given.images))),
    );
  }

  /**
   * Mean cross-entropy [1] of a batch with nothing dropped: differentiable inside `autograd.valueAndGrad`.
   * @throws as {@link gradients} for the batch
   */
  loss(batch: TrainingBatch): Tensor {
    const images = imageInput(this.backbone.config.imageSize, batch.images);
    const inputs = { images, labels: labelInput(this.options.classes, batch.labels, images.shape[0]!) };
    const { labelSmoothing } = this.options;
    return this.#pass(() =>
      this.#passes.run(`loss ${images.shape[0]}`, inputs, (given) =>
        scope(() => ops.softmaxCrossEntropy(this.#logits(given.images), given.labels, { labelSmoothing }).loss),
      ),
    );
  }

  /**
   * Mean cross-entropy of a batch and its gradients by {@link parameters}, as in a training step. The caller disposes them.
   * @throws ShapeError for images of another size, none at all, or not as many as labels; ArgumentError for a label that is no class; MemoryError. Then
   * everything that the pass made is given back; what every pass needs, such as h, may stay. MethodError for a hook that breaks its
   * promise, or a parameter that no gradient reaches.
   */
  gradients(batch: TrainingBatch): { loss: Tensor; correct: Tensor; grads: Record<string, Tensor> } {
    if (this.#merged) {
      throw new ArgumentError(`petl.${this.method}: the method is merged into the backbone, expected unmerge() first`, {
        kernel: 'gradients',
      });
    }
    const images = imageInput(this.backbone.config.imageSize, batch.images);
    const size = images.shape[0]!;
    const inputs: Record<string, PassInput> = {
      images,
      labels: labelInput(this.options.classes, batch.labels, size),
      gradOut: { shape: [1], fill: (tensor) => tensor.write([1]) },
      ...this.#random(size),
    };
    const parameters = Object.fromEntries(this.parameters().map(({ name, tensor }) => [name, tensor]));
    const { labelSmoothing } = this.options;
    const key = `gradients ${size}`;
    const body = ({ images, labels, gradOut, step, ...masks }: Record<string, Tensor>) => {
      let correct: Tensor | undefined;
      const loss = (): Tensor => {
        const result = ops.softmaxCrossEntropy(this.#logits(images!, { masks, step }), labels!, { labelSmoothing });
        correct = keep(result.correct);
        return result.loss;
      };
      const onRetained = (retained: Retained[]): void => void this.#retained.set(key, retained);
      try {
        const { value, grads } = valueAndGrad(loss, parameters, {
          onRetained,
          onUnreached: (names) => this.#checkReached(names),
          gradOut: gradOut!,
        });
        return { loss: value, correct: correct!, grads };
      } catch (error) {
        correct?.dispose();
        throw error;
      }
    };
    const result = this.#pass(() => outsideScopes(() => this.#passes.run(key, inputs, body)));
    this.retained = this.#retained.get(key)!;
    return result;
  }

  // A parameter of the method that the loss does not depend on is a mistake in a hook, unless it is declared optional.
  #checkReached(unreached: readonly string[]): void {
    const { specs } = this.#blueprint;
    const name = unreached.find((each) => specs[each] && !specs[each].optional);
    if (name === undefined) return;
    throw new MethodError(
      `petl.${this.method}: no gradient reaches its parameter '${name}'; expected a hook that uses it, or 'optional: true' in its declaration`,
      { kernel: `petl.${this.method}`, argument: name },
    );
  }

  /**
   * One training step: forward, backward, update. On a planning device the numbers are NaN.
   * @throws what {@link gradients} throws; afterwards a smaller step works
   */
  async step(batch: TrainingBatch, optimizer: AdamW): Promise<StepResult> {
    const { loss, correct, grads } = this.gradients(batch);
    try {
      optimizer.update(grads);
      this.steps++;
      const images = batch.labels.length;
      if (this.device.plan) return { loss: Number.NaN, correct: Number.NaN, images };
      const [losses, hits] = await Promise.all([loss.read(), correct.read()]);
      return { loss: losses[0]!, correct: hits[0]!, images };
    } finally {
      for (const tensor of [loss, correct, ...Object.values(grads)]) tensor.dispose();
    }
  }

  /** Mean loss and number of right answers of a batch, in inference mode. */
  async evaluate(batch: TrainingBatch): Promise<StepResult> {
    const images = imageInput(this.backbone.config.imageSize, batch.images);
    const inputs = { images, labels: labelInput(this.options.classes, batch.labels, images.shape[0]!) };
    const result = this.#pass(() =>
      this.#passes.run(`evaluate ${images.shape[0]}`, inputs, (given) =>
        scope(() => ops.softmaxCrossEntropy(this.#logits(given.images), given.labels)),
      ),
    );
    try {
      const [losses, hits] = await Promise.all([result.loss.read(), result.correct.read()]);
      return { loss: losses[0]!, correct: hits[0]!, images: batch.labels.length };
    } finally {
      result.loss.dispose();
      result.correct.dispose();
    }
  }

  /** Class probabilities [B][classes] of images. */
  async predict(images: Tensor | Float32Array): Promise<Float32Array[]> {
    const logits = this.forward(images);
    try {
      const numbers = (await logits.read()) as Float32Array;
      const { classes } = this.options;
      return Array.from({ length: numbers.length / classes }, (_, row) =>
        softmax(numbers.subarray(row * classes, (row + 1) * classes)),
      );
    } finally {
      logits.dispose();
    }
  }

  /** Whether the method is folded into the backbone's tensors. */
  get merged(): boolean {
    return this.#merged !== undefined;
  }

  /**
   * Folds the method into copies of the backbone's tensors: inference then costs what the plain backbone costs. The shared backbone stays as it is;
   * {@link unmerge} lets go of the copies. Merge again after training.
   * @throws ArgumentError for a method that cannot be folded in
   */
  async merge(): Promise<void> {
    const { hooks, mergeable } = this.#blueprint;
    const other = Object.keys(hooks).find((hook) => !['patches', 'norm', 'linear', 'touches'].includes(hook));
    if (!mergeable || other !== undefined) {
      const reason = mergeable ? `: it acts through '${other}', too` : '';
      throw new ArgumentError(`petl.${this.method}: cannot be merged into a backbone${reason}`, {
        kernel: `petl.${this.method}`,
        argument: 'merge',
      });
    }
    const merged = await mergedTensors(this.backbone, (name) => this.#plain(name), hooks, this.#context(1));
    this.unmerge();
    this.#merged = merged;
  }

  /** The method acts through its hooks again, from the tensors that it had, bit for bit. */
  unmerge(): void {
    for (const tensor of this.#merged?.values() ?? []) tensor.dispose();
    this.#merged = undefined;
    this.#passes.dispose();
  }

  /**
   * Writes the backbone with the method folded in, and the head, to a safetensors file with timm's names: any software that runs a vision transformer runs
   * it. Whole or not at all.
   * @throws ArgumentError unless {@link merged}; FileError
   */
  async saveMerged(path: string, { dtype = 'f32' }: { dtype?: 'f32' | 'bf16' } = {}): Promise<void> {
    const merged = this.#merged;
    if (!merged) throw new ArgumentError(`petl.${this.method}: not merged, expected merge() before saveMerged()`);
    const plain = (name: string): Tensor => {
      const tensor = merged.get(name);
      if (tensor instanceof PackedWeight) return outsideScopes(() => ops.unpackWeight(tensor, { dtype: 'f32' }));
      return tensor?.alias() ?? this.#plain(name);
    };
    await saveVit(this.backbone.config, plain, path, {
      dtype,
      name: `${this.backbone.name}, ${this.method} merged`,
      head: this.#head,
    });
  }

  dispose(): void {
    this.#passes.dispose();
    this.unmerge();
    for (const { tensor } of this.parameters()) tensor.dispose();
    for (const tensor of this.#buffers.values()) tensor.dispose();
    this.#buffers.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

// FNV-1a, 31 bits.
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 1;
}

// What goes wrong with a parameter's declaration is said with its name.
function declared<T>(method: string, name: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (error instanceof SidetuneError) error.message = `petl.${method}, parameter '${name}': ${error.message}`;
    throw error;
  }
}

// Every trained tensor has a name of its own.
function checkNames(method: string, names: readonly string[], trained: readonly string[]): void {
  const taken = new Set([...trained, 'head.weight', 'head.bias']);
  const twice = names.find((name) => taken.has(name));
  if (twice === undefined) return;
  throw new MethodError(
    `petl.${method}: declares parameter '${twice}' twice: the head or a trained tensor has that name`,
    {
      kernel: `petl.${method}`,
      argument: twice,
    },
  );
}

function softmax(logits: Float32Array): Float32Array {
  const largest = logits.reduce((max, value) => Math.max(max, value), Number.NEGATIVE_INFINITY);
  const powers = logits.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}
