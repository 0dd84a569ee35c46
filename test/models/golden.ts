/** Models of the goldens: a backbone and a method from one file, with everything that the file says about them. */

import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { Device } from '../../lib/device';
import { openSafetensors, type SafetensorsFile, writeSafetensors } from '../../lib/io/safetensors';
import { type ComputeDtype, load, type Vit } from '../../lib/models';
import { type ModelOptions, methodNamed, type PetlModel } from '../../lib/petl';
import type { TrainingBatch } from '../../lib/petl/model';

export const goldensFolder = path.join(__dirname, '..', 'fixtures', 'goldens');

// biome-ignore lint/suspicious/noExplicitAny: attributes differ from case to case
export type Attributes = Record<string, any>;

const cases = JSON.parse(readFileSync(path.join(goldensFolder, 'cases.json'), 'utf8')) as {
  file: string;
  op: string;
  attrs: Attributes;
}[];

export interface GoldenModel {
  attrs: Attributes;
  file: SafetensorsFile;
  backbone: Vit;
  model: PetlModel;
  batch: TrainingBatch;
}

/** The golden's backbone as a file of its own with timm's names, for `models.load`. */
async function backboneFile(file: SafetensorsFile, heads: number, folder: string): Promise<string> {
  const target = path.join(folder, `${path.basename(file.path, '.safetensors')}.backbone.safetensors`);
  const tensors = [];
  for (const [name, { shape }] of file.tensors) {
    if (!/^weight\.(cls_token|pos_embed|patch_embed|blocks|norm|head)\b/.test(name)) continue;
    tensors.push({
      name: name.slice('weight.'.length),
      dtype: 'F32' as const,
      shape,
      data: await file.readFloat32(name),
    });
  }
  await writeSafetensors(target, tensors, { heads: String(heads) });
  return target;
}

/** A case's method as the package calls it, with its options. */
function methodOf(attrs: Attributes): [string, object] {
  switch (attrs.method) {
    case 'linear':
    case 'full':
    case 'bitfit':
    case 'ssf':
      return [attrs.method, {}];
    case 'adaptformer':
      return ['adaptFormer', { bottleneck: attrs.bottleneck, scale: attrs.scale, dropout: 0 }];
    case 'lst':
      return ['lst', { reduction: attrs.reduction }];
    case 'lora':
      return ['lora', { rank: attrs.rank, scale: attrs.scale, dropout: 0 }];
    case 'fact_tt':
      return ['factTt', { rank: attrs.rank, scale: attrs.scale, dropout: 0 }];
    case 'fact_tk':
      return ['factTk', { rank: attrs.rank, scale: attrs.scale, dropout: 0 }];
    case 'noah_subnet':
      return ['noah', { sizes: attrs.sizes, dropout: 0 }];
    case 'adapter':
      return [attrs.method, { bottleneck: attrs.bottleneck }];
    case 'vpt_shallow':
      return ['vptShallow', { prompts: attrs.prompts }];
    case 'vpt_deep':
      return ['vptDeep', { prompts: attrs.prompts }];
    default: {
      const side = { rank: attrs.rank, startBlock: attrs.start_block, beta: attrs.beta };
      return attrs.conv_kernel ? ['dtlPlus', { ...side, kernelSize: attrs.conv_kernel }] : ['dtl', side];
    }
  }
}

/** The part of a tensor that lies in a shape, and zeros around it: NOAH's files hold tensors of the largest size, or the parts in use. */
function fitted(data: Float32Array, from: readonly number[], to: readonly number[]): Float32Array {
  const [rows, columns] = from.length === 1 ? [1, from[0]!] : [from[0]!, from[1]!];
  const [toRows, toColumns] = to.length === 1 ? [1, to[0]!] : [to[0]!, to[1]!];
  return Float32Array.from({ length: toRows * toColumns }, (_, index) => {
    const [i, j] = [Math.floor(index / toColumns), index % toColumns];
    return i < rows && j < columns ? data[i * columns + j]! : 0;
  });
}

/** A tensor of the file in a parameter's shape; undefined where the file has none. */
export async function readFitted(
  file: SafetensorsFile,
  name: string,
  shape: readonly number[],
): Promise<Float32Array | undefined> {
  const entry = file.tensors.get(name);
  if (!entry) return undefined;
  const data = await file.readFloat32(name);
  return String(entry.shape) === String(shape) ? data : fitted(data, entry.shape, shape);
}

export async function openGolden(
  device: Device,
  name: string,
  folder: string,
  { dtype = 'f32', supernet, ...options }: { dtype?: ComputeDtype; supernet?: number } & Partial<ModelOptions> = {},
): Promise<GoldenModel> {
  const { attrs } = cases.find(({ file }) => file === `${name}.safetensors`)!;
  const file = await openSafetensors(path.join(goldensFolder, `${name}.safetensors`));
  const backbone = await load(device, await backboneFile(file, attrs.heads, folder), { dtype, heads: attrs.heads });
  const [method, own] = supernet
    ? ['noahSupernet', { sizes: attrs.sizes, maxSize: supernet, dropout: 0 }]
    : methodOf(attrs);
  const pool = attrs.pool === 'cls' ? 'cls' : 'patch_mean_then_norm';
  const model = methodNamed(method)!(backbone, { classes: attrs.classes, pool, ...own, ...options });
  for (const { name: parameter, tensor } of model.parameters())
    tensor.write((await readFitted(file, `weight.${parameter}`, tensor.shape))!);
  const batch = { images: await file.readFloat32('in.images'), labels: await file.readInt32('in.labels') };
  return { attrs, file, backbone, model, batch };
}
