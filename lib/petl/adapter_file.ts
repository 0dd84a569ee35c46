/**
 * Adapters on disk: one safetensors file with the trained tensors and, in its metadata, the configuration: what `model.save` writes and
 * `petl.load` reads. Names follow the authors' code where a method says how (`fileName`).
 */

import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ArgumentError, FormatError } from '../errors';
import { fileError } from '../io/atomic';
import { openSafetensors, type SafetensorsFile, type TensorToWrite, writeSafetensors } from '../io/safetensors';
import type { Vit } from '../models';
import { transposed } from './merge';
import type { PetlModel } from './model';
import type { ModelOptions } from './model_options';
import { methodNamed } from './registry';

const prefix = 'base_model.model.';

interface AdapterConfig {
  peft_type: string;
  base_model_name_or_path: string;
  base_model_fingerprint: string;
  inference_mode: boolean;
  method_options: Record<string, unknown>;
  pool: ModelOptions['pool'];
  num_classes: number;
  labels?: string[];
  modules_to_save: string[];
}

/** Writes what is trained to a safetensors file, whole or not at all. */
export async function saveAdapter(model: PetlModel, path: string): Promise<void> {
  const tensors: TensorToWrite[] = [];
  for (const { name, tensor } of model.parameters()) {
    const { key, transpose } = model.fileName(name);
    const [rows, columns] = tensor.shape as [number, number];
    tensors.push({
      name: prefix + key,
      dtype: 'F32',
      shape: transpose ? [columns, rows] : tensor.shape,
      data: async () => {
        const numbers = (await tensor.read()) as Float32Array;
        return transpose ? transposed(numbers, rows, columns) : numbers;
      },
    });
  }
  const config: AdapterConfig = {
    peft_type: model.method,
    base_model_name_or_path: model.backbone.name,
    base_model_fingerprint: model.backbone.fingerprint,
    inference_mode: true,
    method_options: { ...model.methodOptions },
    pool: model.options.pool,
    num_classes: model.options.classes,
    ...(model.options.labels ? { labels: [...model.options.labels] } : {}),
    modules_to_save: ['head'],
  };
  await writeSafetensors(path, tensors, { format: 'pt', adapter_config: JSON.stringify(config) });
}

function configOf(file: SafetensorsFile): AdapterConfig {
  const fail = (field: string, got: string, expected: string): never => {
    throw new FormatError(`${file.path}: metadata '${field}' is ${got}, expected ${expected}`, {
      argument: field,
      got,
      expected,
    });
  };
  const text = file.metadata.adapter_config;
  if (text === undefined) return fail('adapter_config', 'missing', 'the JSON that model.save writes');
  let config: Partial<AdapterConfig>;
  try {
    config = JSON.parse(text);
  } catch {
    return fail('adapter_config', 'not JSON', 'the JSON that model.save writes');
  }
  if (config === null || typeof config !== 'object') return fail('adapter_config', String(config), 'an object');
  if (typeof config.peft_type !== 'string')
    fail('adapter_config.peft_type', String(config.peft_type), 'the name of a method');
  for (const field of ['base_model_name_or_path', 'base_model_fingerprint'] as const)
    if (typeof config[field] !== 'string') fail(`adapter_config.${field}`, String(config[field]), 'a text');
  if (config.labels !== undefined && !Array.isArray(config.labels))
    fail('adapter_config.labels', String(config.labels), 'a list of names');
  if (!Number.isInteger(config.num_classes))
    fail('adapter_config.num_classes', String(config.num_classes), 'a whole number');
  if (config.method_options === null || typeof config.method_options !== 'object')
    fail('adapter_config.method_options', String(config.method_options), 'an object');
  return config as AdapterConfig;
}

export interface LoadAdapterOptions
  extends Partial<Pick<ModelOptions, 'retain' | 'prefix' | 'dropPath' | 'seed' | 'labelSmoothing' | 'replay'>> {
  /** Accept an adapter that was trained on another backbone. Default false. */
  otherBackbone?: boolean;
}

/**
 * Reads an adapter and puts it on its backbone.
 * @throws FileError, FormatError: not an adapter, other shapes, or made for another backbone (its fingerprint differs)
 */
export async function load(
  backbone: Vit,
  path: string,
  { otherBackbone = false, ...options }: LoadAdapterOptions = {},
): Promise<PetlModel> {
  const file = await openSafetensors(path);
  let model: PetlModel | undefined;
  try {
    const config = configOf(file);
    const method = methodNamed(config.peft_type);
    if (!method) {
      throw new FormatError(`${path}: made with method '${config.peft_type}', which is not defined here`, {
        argument: 'adapter_config.peft_type',
        got: config.peft_type,
      });
    }
    if (config.base_model_fingerprint !== backbone.fingerprint && !otherBackbone) {
      throw new FormatError(
        `${path}: made for backbone '${config.base_model_name_or_path}' (${config.base_model_fingerprint}), this one is '${backbone.name}' (${backbone.fingerprint})`,
        { argument: 'base_model_fingerprint', got: config.base_model_fingerprint, expected: backbone.fingerprint },
      );
    }
    try {
      model = method(backbone, {
        ...config.method_options,
        classes: config.num_classes,
        pool: config.pool,
        ...(config.labels ? { labels: config.labels } : {}),
        ...options,
      } as ModelOptions);
    } catch (cause) {
      if (!(cause instanceof ArgumentError)) throw cause;
      throw new FormatError(`${path}: ${cause.message}`, { argument: 'adapter_config', cause });
    }
    for (const { name, tensor } of model.parameters()) {
      const { key, transpose } = model.fileName(name);
      const stored = prefix + key;
      const shape = transpose ? [...tensor.shape].reverse() : tensor.shape;
      const expected = `[${shape.join(', ')}]`;
      const entry = file.tensors.get(stored);
      const got = entry ? `[${entry.shape.join(', ')}]` : 'missing';
      if (got !== expected)
        throw new FormatError(`${path}: tensor '${stored}' is ${got}, expected shape ${expected}`, {
          argument: stored,
          got,
          expected,
        });
      const data = await file.readFloat32(stored);
      tensor.write(transpose ? transposed(data, shape[0]!, shape[1]!) : data);
    }
    model.initialized = true;
    return model;
  } catch (error) {
    model?.dispose();
    throw error;
  } finally {
    await file.close();
  }
}

/** An adapter on disk, as its header describes it. */
export interface AdapterListing {
  path: string;
  method: string;
  /** The method's own. */
  options: Record<string, unknown>;
  /** What it was trained on: {@link load} takes no backbone with another fingerprint. */
  backbone: { name: string; fingerprint: string };
  classes: number;
  /** Names of the classes, where it knows them. */
  labels?: string[];
  /** Trained numbers, the head excluded. */
  parameters: number;
  /** Of the file. */
  bytes: number;
}

/**
 * The adapters in a folder, by name: every .safetensors file that {@link PetlModel.save} wrote. Of each file the header is read and nothing else; what holds no
 * adapter is left out.
 * @throws FileError when the folder or a file in it cannot be read
 */
export async function listAdapters(folder: string): Promise<AdapterListing[]> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (cause) {
    throw fileError('read', folder, cause);
  }
  const listings: AdapterListing[] = [];
  for (const name of names.filter((each) => each.endsWith('.safetensors')).sort()) {
    const path = join(folder, name);
    const found = await stat(path).catch(() => undefined); // a link to nowhere is no file
    if (!found?.isFile()) continue;
    try {
      listings.push(await describe(path, found.size));
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
    }
  }
  return listings;
}

async function describe(path: string, bytes: number): Promise<AdapterListing> {
  await using file = await openSafetensors(path);
  const config = configOf(file);
  let parameters = 0;
  for (const [name, { shape }] of file.tensors) {
    if (!name.startsWith(`${prefix}head.`)) parameters += shape.reduce((product, side) => product * side, 1);
  }
  return {
    path,
    method: config.peft_type,
    options: config.method_options,
    backbone: { name: config.base_model_name_or_path, fingerprint: config.base_model_fingerprint },
    classes: config.num_classes,
    ...(config.labels ? { labels: config.labels } : {}),
    parameters,
    bytes,
  };
}
