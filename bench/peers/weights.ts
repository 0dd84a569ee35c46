/** Our weights for other software: every peer computes with the numbers that we compute with. */

import { writeSafetensors } from '../../lib/io/safetensors';
import { vitShapes } from '../../lib/models/vit';
import type { PetlModel } from '../../lib/petl';
import type { Tensor } from '../../lib/tensor';

/** Plain f32 tensors by name: the backbone's in timm's names, the method's, the head's. */
export type Weights = ReadonlyMap<string, { shape: readonly number[]; data: Float32Array }>;

export async function weightsOf(model: PetlModel): Promise<Weights> {
  const weights = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  const add = async (name: string, tensor: Tensor): Promise<void> => {
    weights.set(name, { shape: [...tensor.shape], data: (await tensor.read()) as Float32Array });
  };
  for (const { name, tensor } of model.parameters()) await add(name, tensor);
  for (const name of vitShapes(model.backbone.config).keys()) {
    if (weights.has(name)) continue;
    using tensor = model.backbone.plain(name);
    await add(name, tensor);
  }
  return weights;
}

/**
 * Writes f32 tensors as a safetensors file.
 * @throws FileError
 */
export async function writeTensors(path: string, tensors: Weights): Promise<void> {
  await writeSafetensors(
    path,
    [...tensors].map(([name, tensor]) => ({ name, dtype: 'F32', ...tensor })),
  );
}
