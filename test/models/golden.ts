/** Models of the goldens: a backbone and a method from one file, with everything that the file says about them. */

import { readFileSync } from 'node:fs';
import path from 'node:path';
import type { Device } from '../../lib/device';
import { openSafetensors, type SafetensorsFile, writeSafetensors } from '../../lib/io/safetensors';
import { type ComputeDtype, load, type Vit } from '../../lib/models';
import type { ModelOptions, PetlModel } from '../../lib/petl';
import * as petl from '../../lib/petl';
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
    if (!name.startsWith('weight.') || name.startsWith('weight.side.')) continue;
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

export async function openGolden(
  device: Device,
  name: string,
  folder: string,
  { dtype = 'f32', ...options }: { dtype?: ComputeDtype } & Partial<ModelOptions> = {},
): Promise<GoldenModel> {
  const { attrs } = cases.find(({ file }) => file === `${name}.safetensors`)!;
  const file = await openSafetensors(path.join(goldensFolder, `${name}.safetensors`));
  const backbone = await load(device, await backboneFile(file, attrs.heads, folder), { dtype, heads: attrs.heads });
  const common = { classes: attrs.classes, pool: 'patch_mean_then_norm' as const, ...options };
  const side = { rank: attrs.rank, startBlock: attrs.start_block, beta: attrs.beta };
  const model =
    attrs.method === 'linear'
      ? petl.linear(backbone, common)
      : attrs.method === 'full'
        ? petl.full(backbone, common)
        : attrs.conv_kernel
          ? petl.dtlPlus(backbone, { ...common, ...side, kernelSize: attrs.conv_kernel })
          : petl.dtl(backbone, { ...common, ...side });
  for (const { name: parameter, tensor } of model.parameters())
    tensor.write(await file.readFloat32(`weight.${parameter}`));
  const batch = { images: await file.readFloat32('in.images'), labels: await file.readInt32('in.labels') };
  return { attrs, file, backbone, model, batch };
}
