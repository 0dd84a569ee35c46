import { block as named, type Retained, valueAndGrad } from '../autograd';
import type { Device } from '../device';
import { ArgumentError, ShapeError } from '../errors';
import type { ForwardContext, Hooks, Retain, Vit } from '../models';
import { Initialization, init } from '../models/initializers';
import { isMatrix } from '../models/vit';
import * as ops from '../ops';
import type { AdamW, Parameter } from '../optim';
import { keep, outsideScopes, scope } from '../scope';
import { Tensor } from '../tensor';
import { saveAdapter } from './adapter_file';
import type { ParameterSpec } from './method';
import { Passes, type PassInput } from './passes';

/** Where the head reads (METHODS 1.1): CLS after the final norm; the mean of the patches, then the norm; the norm, then the mean of the patches. */
export type Pool = 'cls' | 'patch_mean_then_norm' | 'norm_then_patch_mean';

export interface ModelOptions {
  /** Number of classes of the task. */
  classes: number;
  /** Names of the classes; kept with the adapter. */
  labels?: readonly string[];
  /** Default: the method's own, 'patch_mean_then_norm' for DTL. */
  pool?: Pool;
  /** Rate of stochastic depth at the last block; it grows linearly from 0 at the first (METHODS 1.3). Default 0. */
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
  prefixTokens: number;
  fileName(parameter: string): { key: string; transpose?: boolean };
  options: ModelOptions;
}

/** Drop path's masks by block and branch: '3.attn'. */
type DropPathMasks = Readonly<Record<string, Tensor>>;

const pools: Pool[] = ['cls', 'patch_mean_then_norm', 'norm_then_patch_mean'];
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
  /** Training steps made; drop path's masks depend on it. */
  steps = 0;

  readonly #blueprint: ModelBlueprint;
  readonly #own: Record<string, Tensor> = {}; // the method's parameters
  readonly #trained = new Map<string, Tensor>(); // the backbone's tensors that are trained
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
    const head = random.make([this.options.classes, dim], init.normal(0.02, { cut: 2 }), 'side');
    this.#head = { weight: head, bias: random.make([this.options.classes], init.zeros(), 'side') };
    for (const [name, spec] of Object.entries(blueprint.specs))
      this.#own[name] = random.make(spec.shape, spec.init, 'side');
    for (const name of backbone.names()) {
      if (!blueprint.trains(name)) continue;

      this.#trained.set(name, backbone.plain(name));
      backbone.release(name);
    }
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

  #context(batch: number, masks?: DropPathMasks): ForwardContext {
    return {
      backbone: this.backbone,
      batch,
      training: masks !== undefined,
      parameters: this.#own,
      state: {},
      buffer: (name, shape) => this.#buffer(name, shape),
      dropPath: (i, which) => masks?.[`${i}.${which}`]?.alias(),
    };
  }

  // The masks of this step, one for each branch that may be dropped.
  #masks(batch: number): Record<string, PassInput> {
    const { depth } = this.backbone.config;
    const { dropPath, seed } = this.options;
    const masks: Record<string, PassInput> = {};
    for (let i = 1; i <= depth; i++) {
      const rate = depth > 1 ? (dropPath * (i - 1)) / (depth - 1) : dropPath;
      if (rate === 0) continue;
      for (const [index, which] of ['attn', 'mlp'].entries()) {
        const offset = dropPathBase + ((this.steps * depth + i - 1) * 2 + index) * dropPathStride;
        const fill = (out: Tensor): void => void ops.randomKeep_(out, { keep: 1 - rate, seed, offset });
        masks[`${i}.${which}`] = { shape: [batch], fill };
      }
    }
    return masks;
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

  #images(images: Tensor | Float32Array): PassInput {
    const side = this.backbone.config.imageSize;
    const size = 3 * side * side;
    if (images instanceof Tensor) {
      const [, channels, rows, columns] = images.shape;
      if (images.shape.length !== 4 || channels !== 3 || rows !== side || columns !== side) {
        throw new ShapeError(
          `forward: 'images' has shape [${images.shape.join(', ')}], expected [B, 3, ${side}, ${side}]`,
          {
            argument: 'images',
          },
        );
      }
      return { shape: images.shape, fill: (tensor) => tensor.copyFrom(images) };
    }
    if (images.length === 0 || images.length % size) {
      const expected = `at least one image: a multiple of 3·${side}·${side} = ${size}`;
      throw new ShapeError(`forward: 'images' has ${images.length} numbers, expected ${expected}`, {
        argument: 'images',
        got: String(images.length),
        expected,
      });
    }
    return { shape: [images.length / size, 3, side, side], fill: (tensor) => tensor.write(images) };
  }

  // A label that is no class is refused here, where it can be named; on the device it would be found too late.
  #labels(labels: Int32Array, images: number): PassInput {
    const { classes } = this.options;
    if (labels.length !== images) {
      throw new ShapeError(`step: 'labels' has ${labels.length} numbers, expected one for each image: ${images}`, {
        argument: 'labels',
        got: String(labels.length),
        expected: String(images),
      });
    }
    const index = labels.findIndex((label) => !(label >= 0 && label < classes));
    if (index >= 0) {
      throw new ArgumentError(
        `step: 'labels' has ${labels[index]} at ${index}, expected a class from 0 to ${classes - 1}`,
        {
          argument: 'labels',
          got: String(labels[index]),
        },
      );
    }
    return { shape: [labels.length], dtype: 'i32', fill: (tensor) => tensor.write(labels) };
  }

  #logits(images: Tensor, masks?: DropPathMasks): Tensor {
    const { hooks, frozenBlocks, prefixTokens } = this.#blueprint;
    const { pool, retain, prefix } = this.options;
    const { layerNormEps: eps } = this.backbone.config;
    const context = this.#context(images.shape[0]!, masks);
    const z = this.backbone.forward(images, {
      hooks,
      context,
      trained: this.#trained,
      retain,
      recomputedBlocks: masks && prefix === 'recompute' ? frozenBlocks : 0,
    });
    const norm = (x: Tensor): Tensor => {
      const y = ops.layerNorm(x, this.#tensor('norm.weight'), this.#tensor('norm.bias'), { eps });
      return hooks.norm ? hooks.norm('norm', y, context) : y;
    };
    const mean = (x: Tensor): Tensor => ops.pool(x, { mode: 'mean', prefixTokens });
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

  #tensor(name: string): Tensor {
    return this.#trained.get(name) ?? this.backbone.frozen(name);
  }

  /**
   * Logits [B, classes], f32, of images [B, 3, H, W]: differentiable inside `autograd.valueAndGrad`, with nothing dropped.
   * @throws ShapeError for images of another size, or none at all
   */
  forward(images: Tensor | Float32Array): Tensor {
    const inputs = { images: this.#images(images) };
    return this.#pass(() =>
      this.#passes.run(`forward ${inputs.images.shape[0]}`, inputs, (given) => scope(() => this.#logits(given.images))),
    );
  }

  /**
   * Mean cross-entropy of a batch and its gradients by {@link parameters}, as in a training step. The caller disposes them.
   * @throws ShapeError for images of another size, none at all, or not as many as labels; ArgumentError for a label that is no class; MemoryError. Then
   * everything that the pass made is given back; packings of frozen matrices, which every pass needs, may stay.
   */
  gradients(batch: TrainingBatch): { loss: Tensor; correct: Tensor; grads: Record<string, Tensor> } {
    const images = this.#images(batch.images);
    const size = images.shape[0]!;
    const inputs: Record<string, PassInput> = {
      images,
      labels: this.#labels(batch.labels, size),
      gradOut: { shape: [1], fill: (tensor) => tensor.write([1]) },
      ...this.#masks(size),
    };
    const parameters = Object.fromEntries(this.parameters().map(({ name, tensor }) => [name, tensor]));
    const { labelSmoothing } = this.options;
    const key = `gradients ${size}`;
    const body = ({ images, labels, gradOut, ...masks }: Record<string, Tensor>) => {
      let correct: Tensor | undefined;
      const loss = (): Tensor => {
        const result = ops.softmaxCrossEntropy(this.#logits(images!, masks), labels!, { labelSmoothing });
        correct = keep(result.correct);
        return result.loss;
      };
      const onRetained = (retained: Retained[]): void => void this.#retained.set(key, retained);
      try {
        const { value, grads } = valueAndGrad(loss, parameters, { onRetained, gradOut: gradOut! });
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
    const images = this.#images(batch.images);
    const inputs = { images, labels: this.#labels(batch.labels, images.shape[0]!) };
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

  dispose(): void {
    this.#passes.dispose();
    for (const { tensor } of this.parameters()) tensor.dispose();
    for (const tensor of this.#buffers.values()) tensor.dispose();
    this.#buffers.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function softmax(logits: Float32Array): Float32Array {
  const largest = logits.reduce((max, value) => Math.max(max, value), Number.NEGATIVE_INFINITY);
  const powers = logits.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}
