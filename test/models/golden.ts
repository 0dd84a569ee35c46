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
      return [attrs.method, {}];
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

export async function openGolden(
  device: Device,
  name: string,
  folder: string,
  { dtype = 'f32', ...options }: { dtype?: ComputeDtype } & Partial<ModelOptions> = {},
): Promise<GoldenModel> {
  const { attrs } = cases.find(({ file }) => file === `${name}.safetensors`)!;
  const file = await openSafetensors(path.join(goldensFolder, `${name}.safetensors`));
  const backbone = await load(device, await backboneFile(file, attrs.heads, folder), { dtype, heads: attrs.heads });
  const [method, own] = methodOf(attrs);
  const pool = attrs.pool === 'cls' ? 'cls' : 'patch_mean_then_norm';
  const model = methodNamed(method)!(backbone, { classes: attrs.classes, pool, ...own, ...options });
  for (const { name: parameter, tensor } of model.parameters())
    tensor.write(await file.readFloat32(`weight.${parameter}`));
  const batch = { images: await file.readFloat32('in.images'), labels: await file.readInt32('in.labels') };
  return { attrs, file, backbone, model, batch };
}
