import { createHash } from 'node:crypto';
import type { Device } from '../device';
import { ArgumentError, FormatError } from '../errors';
import { float32ToBf16, openSafetensors, type SafetensorsFile, writeSafetensors } from '../io/safetensors';
import type { PackedWeight } from '../ops';
import { outsideScopes } from '../scope';
import { Tensor } from '../tensor';
import { Initialization, init } from './initializers';
import { type ComputeDtype, completeConfig, place, Vit, type VitConfig, vitShapes } from './vit';

export interface VitOptions {
  /** Of matrices and tokens. Default 'f32'. */
  dtype?: ComputeDtype;
  /** Of random weights. Default 0. */
  seed?: number;
  /** What adapters remember the backbone by. */
  name?: string;
}

/** Configurations by timm's names. */
export const vitPresets: Record<string, VitConfig> = {
  vit_tiny_patch16_224: completeConfig({ imageSize: 224, patchSize: 16, dim: 192, depth: 12, heads: 3 }),
  vit_small_patch16_224: completeConfig({ imageSize: 224, patchSize: 16, dim: 384, depth: 12, heads: 6 }),
  vit_base_patch16_224: completeConfig({ imageSize: 224, patchSize: 16, dim: 768, depth: 12, heads: 12 }),
  vit_large_patch16_224: completeConfig({ imageSize: 224, patchSize: 16, dim: 1024, depth: 24, heads: 16 }),
};

/**
 * A vision transformer with random weights: truncated normal 0.02 for matrices, positions and CLS, zero biases, as timm starts one.
 * @param config - a configuration, or the name of one of {@link vitPresets}
 */
export function vit(
  device: Device,
  config: string | (Partial<VitConfig> & Pick<VitConfig, 'imageSize' | 'patchSize' | 'dim' | 'depth' | 'heads'>),
  { dtype = 'f32', seed = 0, name }: VitOptions = {},
): Vit {
  const preset = typeof config === 'string' ? vitPresets[config] : undefined;
  if (typeof config === 'string' && !preset) {
    throw new ArgumentError(`models.vit: unknown model '${config}', known: ${Object.keys(vitPresets).join(', ')}`, {
      argument: 'config',
      got: config,
    });
  }
  const complete = preset ?? completeConfig(config as VitConfig);
  const random = new Initialization(device, seed);
  const tensors = new Map<string, Tensor | PackedWeight>();
  outsideScopes(() => {
    for (const [tensorName, shape] of vitShapes(complete)) {
      const start = tensorName.endsWith('bias')
        ? init.zeros()
        : /norm\d?\.weight$/.test(tensorName)
          ? init.constant(1)
          : init.normal(0.02, { cut: 2 });
      tensors.set(tensorName, place(tensorName, random.make(shape, start, 'weights'), dtype));
    }
  });
  const fingerprint = createHash('sha256')
    .update(JSON.stringify({ ...complete, seed }))
    .digest('hex')
    .slice(0, 16);
  const label = name ?? (typeof config === 'string' ? `${config}, random` : 'vit, random');
  return new Vit(device, complete, dtype, label, fingerprint, tensors);
}

/** What timm's tensors say of a configuration; heads are not among it (64 numbers a head is the rule in ViT-S/B/L). */
function configOf(file: SafetensorsFile, heads: number | undefined): VitConfig {
  const shape = (name: string, rank: number): readonly number[] => {
    const entry = file.tensors.get(name);
    if (!entry || entry.shape.length !== rank) {
      const got = entry ? `[${entry.shape.join(', ')}]` : 'missing';
      throw new FormatError(
        `${file.path}: tensor '${name}' is ${got}, expected ${rank} dimensions (a vision transformer with timm's names)`,
        {
          argument: name,
          got,
        },
      );
    }
    return entry.shape;
  };
  const [dim, , patchSize] = shape('patch_embed.proj.weight', 4) as [number, number, number, number];
  const [, rows] = shape('pos_embed', 3) as [number, number, number];
  let depth = 0;
  while (file.tensors.has(`blocks.${depth}.norm1.weight`)) depth++;
  if (depth === 0)
    throw new FormatError(`${file.path}: no tensor 'blocks.0.norm1.weight'`, { argument: 'blocks.0.norm1.weight' });
  const side = Math.round(Math.sqrt(rows - 1));
  const stored = file.metadata.heads === undefined ? undefined : Number(file.metadata.heads);
  const [hidden] = shape('blocks.0.mlp.fc1.weight', 2) as [number, number];
  return completeConfig({
    imageSize: side * patchSize,
    patchSize,
    dim,
    depth,
    heads: heads ?? stored ?? dim / 64,
    hidden,
  });
}

/**
 * Loads a vision transformer's body from a safetensors file with timm's names. The head, if there is one, is left: it belongs to the task.
 * @param path - a .safetensors file, f32, bf16 or f16
 * @param options - `heads` where it is neither in the file's metadata nor dim/64
 * @throws FileError, FormatError naming path and tensor
 */
export async function load(
  device: Device,
  path: string,
  { dtype = 'f32', name, heads }: VitOptions & { heads?: number } = {},
): Promise<Vit> {
  const file = await openSafetensors(path);
  const tensors = new Map<string, Tensor | PackedWeight>();
  try {
    const config = configOf(file, heads);
    const hash = createHash('sha256');
    for (const [tensorName, shape] of vitShapes(config)) {
      const entry = file.tensors.get(tensorName);
      const expected = `[${shape.join(', ')}]`;
      const got = entry ? `[${entry.shape.join(', ')}]` : 'missing';
      if (got !== expected) {
        throw new FormatError(`${path}: tensor '${tensorName}' is ${got}, expected shape ${expected}`, {
          argument: tensorName,
          got,
          expected,
        });
      }
      const data = await file.readFloat32(tensorName);
      hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      tensors.set(
        tensorName,
        outsideScopes(() => place(tensorName, Tensor.from(device, data, shape, { kind: 'weights' }), dtype)),
      );
    }
    return new Vit(
      device,
      config,
      dtype,
      name ?? file.metadata.name ?? path.replace(/^.*\//, ''),
      hash.digest('hex').slice(0, 16),
      tensors,
    );
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    throw error;
  } finally {
    await file.close();
  }
}

/**
 * Writes a backbone to a safetensors file with timm's names; its configuration is in the metadata. Whole or not at all.
 * @param tensor - gives the tensors by name, f32 and plain; they are disposed
 * @param options - `dtype` of the numbers in the file, default f32; `head`: written, too
 */
export async function saveVit(
  config: VitConfig,
  tensor: (name: string) => Tensor,
  path: string,
  {
    dtype = 'f32',
    name = 'vit',
    head,
  }: { dtype?: 'f32' | 'bf16'; name?: string; head?: { weight: Tensor; bias: Tensor } } = {},
): Promise<void> {
  const entry = (tensorName: string, shape: readonly number[], take: () => Tensor) => ({
    name: tensorName,
    dtype: dtype === 'bf16' ? ('BF16' as const) : ('F32' as const),
    shape,
    data: async () => {
      const own = take();
      try {
        const numbers = (await own.read()) as Float32Array;
        return dtype === 'bf16' ? float32ToBf16(numbers) : numbers;
      } finally {
        own.dispose();
      }
    },
  });
  await writeSafetensors(
    path,
    [
      ...[...vitShapes(config)].map(([tensorName, shape]) => entry(tensorName, shape, () => tensor(tensorName))),
      ...Object.entries(head ?? {}).map(([part, own]) => entry(`head.${part}`, own.shape, () => own.alias())),
    ],
    { name, heads: String(config.heads) },
  );
}
