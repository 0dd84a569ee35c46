import { checkpoint, block as named, type Retained, valueAndGrad } from '../autograd';
import type { Device } from '../device';
import { ArgumentError, MethodError, SidetuneError } from '../errors';
import type { ForwardContext, Hooks, Vit } from '../models';
import { Initialization, init } from '../models/initializers';
import { type ForwardOptions, isMatrix } from '../models/vit';
import type { PackedWeight } from '../ops';
import * as ops from '../ops';
import type { AdamW, Parameter } from '../optim';
import { keep, outsideScopes, scope } from '../scope';
import { Tensor } from '../tensor';
import { saveAdapter } from './adapter_file';
import { imageInput, labelInput } from './inputs';
import { MergedBackbone } from './merge';
import type { ParameterSpec } from './method';
import { checkOptions, type ModelOptions } from './model_options';
import { Passes, type PassInput } from './passes';
import { type Randomness, randomInputs, streamOf } from './randomness';

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

export interface InitializeOptions {
  /** Images of the task, for methods whose initial values depend on it; read as far as they are needed. */
  samples?: AsyncIterable<TrainingBatch>;
  /** Gives up between two images; the model is then as it was. */
  signal?: AbortSignal;
  /** After each image: how many have been looked at, and how many it will be at most. */
  onSample?(images: number, most: number): void;
}

/** What a method's `initialize` gets. */
export interface InitializeContext extends InitializeOptions {
  /**
   * Mean cross-entropy [1] of the backbone without the method, under the model's new head: differentiable, with every block run again in backward.
   * @param hooks - look at it on the way
   * @param standIns - by name, instead of the backbone's own
   */
  backboneLoss(batch: TrainingBatch, hooks: Hooks, standIns: ReadonlyMap<string, Tensor | PackedWeight>): Tensor;
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
  perToken: boolean;
  additive: boolean;
  drops: boolean;
  mergeable: boolean;
  initialize(parameters: Readonly<Record<string, Tensor>>, context: InitializeContext): Promise<void>;
  fileName(parameter: string): { key: string; transpose?: boolean };
  options: ModelOptions;
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
  #merged: MergedBackbone | undefined;
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
   * Gives the method's parameters the initial values that it makes from the backbone's weights and, where it needs them, from images of the task; once, and
   * not after they were read from a file. Training does so by itself before the first step. When it throws, the model is as it was.
   * @throws ArgumentError when the method needs images and gets none; the signal's reason
   */
  async initialize(options: InitializeOptions = {}): Promise<void> {
    if (this.initialized) return;
    const backboneLoss: InitializeContext['backboneLoss'] = (...given) => this.#backboneLoss(...given);
    await this.#blueprint.initialize(this.#own, { ...options, backboneLoss });
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
        if (random.step) return ops.dropout(x, random.step, { rate, seed, stream: streamOf(place) });
        throw new MethodError(`petl.${method}: a hook drops numbers, but the definition's 'drops' does not say so`, {
          kernel: `petl.${method}`,
          argument: 'drops',
        });
      },
      block: (body, inputs) => (retain === 'block-inputs' ? checkpoint(body, inputs) : body(...inputs)),
      dropPath: (i, which) => random?.masks[`${i}.${which}`]?.alias(),
    };
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
    const { retain, prefix } = this.options;
    const context = this.#context(images.shape[0]!, random);
    const hooks = this.#merged ? {} : this.#blueprint.hooks;
    const z = this.backbone.forward(images, {
      hooks,
      context,
      standIns: this.#merged ? new Map([...this.#trained, ...this.#merged.tensors]) : this.#trained,
      retain,
      recomputedBlocks: random && prefix === 'recompute' ? frozenBlocks : 0,
      wanted: this.#wanted(hooks),
    });
    return this.#read(z, hooks, context, finalNorm, prefixTokens());
  }

  // What the head reads of the tokens, where that is known to the backbone early enough to leave something out.
  #wanted(hooks: Hooks): ForwardOptions['wanted'] {
    const { perToken, additive, prefixTokens } = this.#blueprint;
    const { pool } = this.options;
    if (pool === 'cls') return perToken || this.#merged ? 'cls' : 'all';
    const isMean = pool === 'patch_mean_then_norm' && !hooks.features && (!hooks.afterBlock || additive);
    return isMean ? { meanFrom: prefixTokens() } : 'all';
  }

  #backboneLoss(...[batch, hooks, standIns]: Parameters<InitializeContext['backboneLoss']>): Tensor {
    const { imageSize } = this.backbone.config;
    return scope(() => {
      const input = imageInput(imageSize, batch.images);
      const count = input.shape[0]!;
      const [images, labels] = [input, labelInput(this.options.classes, batch.labels, count)].map((each) => {
        const { shape, dtype = 'f32' } = each;
        const tensor = Tensor.empty(this.device, shape, { dtype, kind: 'data' });
        each.fill(tensor);
        return tensor;
      });
      const context = this.#context(count);
      const all = new Map([...this.#trained, ...standIns]);
      const tokens = { hooks, context, standIns: all, retain: 'block-inputs', recomputedBlocks: 0 } as const;
      const z = this.backbone.forward(images!, tokens);
      return ops.softmaxCrossEntropy(this.#read(z, hooks, context, true, this.backbone.prefixTokens), labels!).loss;
    });
  }

  // Logits from the tokens behind the last block.
  #read(z: Tensor, hooks: Hooks, context: ForwardContext, finalNorm: boolean, prefixTokens: number): Tensor {
    const { pool } = this.options;
    const { layerNormEps: eps } = this.backbone.config;
    const norm = (x: Tensor): Tensor => {
      if (!finalNorm) return x;
      const y = ops.layerNorm(x, this.#tensor('norm.weight'), this.#tensor('norm.bias'), { eps });
      return hooks.norm ? hooks.norm('norm', y, context) : y;
    };
    const isMean = z.shape[1] === 1; // taken by the backbone
    const mean = (x: Tensor): Tensor => ops.pool(x, { mode: 'mean', prefixTokens: isMean ? 0 : prefixTokens });
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
    return (
      (this.#merged?.tensors.get(name) as Tensor | undefined) ?? this.#trained.get(name) ?? this.backbone.frozen(name)
    );
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
      ...randomInputs(this.options, this.backbone.config.depth, this.steps, size, this.#blueprint.drops),
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
    const merged = await MergedBackbone.fold(
      this.method,
      this.#blueprint,
      (name) => this.#plain(name),
      this.#context(1),
    );
    this.unmerge();
    this.#merged = merged;
  }

  /** The method acts through its hooks again, from the tensors that it had, bit for bit. */
  unmerge(): void {
    this.#merged?.dispose();
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
    await merged.save(this.backbone, path, {
      dtype,
      method: this.method,
      head: this.#head,
      plain: (name) => this.#plain(name),
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
