/**
 * A method folded into the backbone: its hooks are affine, so what they do to a layer is known from what they do to the rows of an
 * identity matrix. Nothing here knows any method.
 */

import { ArgumentError } from '../errors';
import { type ForwardContext, type Hooks, saveVit, type Vit } from '../models';
import { blockLinears, place, vitShapes } from '../models/vit';
import { PackedWeight, unpackWeight } from '../ops';
import { outsideScopes, scope } from '../scope';
import { Tensor } from '../tensor';

/** A layer y = x Wᵀ + b as a hook sees it: y' for rows of x and of y. */
type Layer = (x: Tensor, y: Tensor) => Tensor;

/** The backbone's tensors that a method changes, with the method folded in; they are its own. */
export class MergedBackbone {
  private constructor(readonly tensors: ReadonlyMap<string, Tensor | PackedWeight>) {}

  /**
   * @param method - its name, for errors
   * @param plain - gives the backbone's tensors as the method has them, f32; they are disposed
   * @throws ArgumentError for a method that cannot be folded in
   */
  static async fold(
    method: string,
    { mergeable, hooks }: { mergeable: boolean; hooks: Hooks },
    plain: (name: string) => Tensor,
    context: ForwardContext,
  ): Promise<MergedBackbone> {
    const other = Object.keys(hooks).find((hook) => !['patches', 'norm', 'linear', 'touches'].includes(hook));
    if (!mergeable || other !== undefined) {
      const reason = mergeable ? `: it acts through '${other}', too` : '';
      throw new ArgumentError(`petl.${method}: cannot be merged into a backbone${reason}`, {
        kernel: `petl.${method}`,
        argument: 'merge',
      });
    }
    return new MergedBackbone(await mergedTensors(context.backbone, plain, hooks, context));
  }

  /** Writes the backbone as it is now, and a head, with timm's names. */
  async save(
    { config, name }: Vit,
    path: string,
    options: {
      dtype: 'f32' | 'bf16';
      method: string;
      head: { weight: Tensor; bias: Tensor };
      /** Gives the tensors that the method leaves as they are, f32; they are disposed. */
      plain: (name: string) => Tensor;
    },
  ): Promise<void> {
    const { dtype, method, head, plain } = options;
    const take = (tensorName: string): Tensor => {
      const tensor = this.tensors.get(tensorName);
      if (tensor instanceof PackedWeight) return outsideScopes(() => unpackWeight(tensor, { dtype: 'f32' }));
      return tensor?.alias() ?? plain(tensorName);
    };
    await saveVit(config, take, path, { dtype, name: `${name}, ${method} merged`, head });
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
  }
}

/**
 * The backbone's tensors that a method changes, with the method folded in: matrices packed, the rest f32. The caller disposes them.
 * @param plain - gives the backbone's tensors as the method has them, f32; they are disposed
 * @param hooks - affine, see {@link MethodDefinition.mergeable}
 */
async function mergedTensors(
  backbone: Vit,
  plain: (name: string) => Tensor,
  hooks: Hooks,
  context: ForwardContext,
): Promise<Map<string, Tensor | PackedWeight>> {
  const { device, config, dtype } = backbone;
  const shapes = vitShapes(config);
  const merged = new Map<string, Tensor | PackedWeight>();
  const put = (name: string, numbers: Float32Array): void => {
    const tensor = outsideScopes(() => Tensor.from(device, numbers, shapes.get(name)!, { kind: 'weights' }));
    merged.set(
      name,
      outsideScopes(() => place(name, tensor, dtype)),
    );
  };

  const rowsOf = (numbers: Float32Array, width: number): Tensor =>
    Tensor.from(device, numbers, [1, numbers.length / width, width]);
  const compute = (body: () => Tensor): Promise<Float32Array> => numbersOf(outsideScopes(() => scope(body)));

  // y' = layer(x, y) is y + A x + c: W' = W + A from x = I without the bias, b' from x = 0 with it. Both less c, where that counts twice.
  const foldLinear = async (name: string, layer: Layer): Promise<void> => {
    const [outputs, ...inner] = shapes.get(`${name}.weight`)! as [number, ...number[]];
    const inputs = inner.reduce((product, length) => product * length, 1);
    const weight = transposed(await numbersOf(plain(`${name}.weight`)), outputs, inputs);
    const run = (x: Float32Array, y: Float32Array): Promise<Float32Array> =>
      compute(() => layer(rowsOf(x, inputs), rowsOf(y, outputs)));
    const constant = await run(new Float32Array(inputs), new Float32Array(outputs));
    const rows = await run(identity(inputs), weight);
    for (let i = 0; i < inputs; i++) for (let j = 0; j < outputs; j++) rows[i * outputs + j]! -= constant[j]!;
    put(`${name}.weight`, transposed(rows, inputs, outputs));
    put(`${name}.bias`, await run(new Float32Array(inputs), await numbersOf(plain(`${name}.bias`))));
  };

  // y' = layer(y) channel by channel: γ' from y = γ, β' from y = β.
  const foldNorm = async (name: string, layer: (y: Tensor) => Tensor): Promise<void> => {
    const run = (y: Float32Array): Promise<Float32Array> => compute(() => layer(rowsOf(y, config.dim)));
    const constant = await run(new Float32Array(config.dim));
    const scales = await run(await numbersOf(plain(`${name}.weight`)));
    put(
      `${name}.weight`,
      scales.map((value, index) => value - constant[index]!),
    );
    put(`${name}.bias`, await run(await numbersOf(plain(`${name}.bias`))));
  };

  try {
    const { patches, linear, norm } = hooks;
    if (patches) await foldLinear('patch_embed.proj', (_x, y) => patches(y, context));
    for (let i = 0; i < config.depth; i++) {
      for (const layer of linear ? blockLinears : []) {
        const name = `blocks.${i}.${layer}`;
        if (hooks.touches?.(name) ?? true) await foldLinear(name, (x, y) => linear!(name, x, y, context));
      }
      for (const layer of norm ? ['norm1', 'norm2'] : []) {
        const name = `blocks.${i}.${layer}`;
        await foldNorm(name, (y) => norm!(name, y, context));
      }
    }
    if (norm) await foldNorm('norm', (y) => norm('norm', y, context));
    return merged;
  } catch (error) {
    for (const tensor of merged.values()) tensor.dispose();
    throw error;
  }
}

async function numbersOf(tensor: Tensor): Promise<Float32Array> {
  try {
    return (await tensor.read()) as Float32Array;
  } finally {
    tensor.dispose();
  }
}

function identity(size: number): Float32Array {
  const numbers = new Float32Array(size * size);
  for (let i = 0; i < size; i++) numbers[i * (size + 1)] = 1;
  return numbers;
}

/** A matrix [rows, columns] as [columns, rows]. */
export function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(data.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) result[column * rows + row] = data[row * columns + column]!;
  return result;
}
