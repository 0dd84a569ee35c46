/** Training state on disk: everything that the next step depends on, so that a resumed run continues bit for bit. */

import { FormatError } from '../errors';
import { openSafetensors, type SafetensorsFile, type TensorToWrite, writeSafetensors } from '../io/safetensors';
import type { AdamW } from '../optim';
import type { PetlModel } from '../petl';
import type { Tensor } from '../tensor';

/** Where a run stands. */
export interface Progress {
  /** Epochs completed. */
  epoch: number;
  /** Batches done of the epoch that is running. */
  batch: number;
  /** Sums over the batches done of the epoch that is running, in their order. */
  lossSum: number;
  correct: number;
  images: number;
  /** Most bytes on the device so far. */
  peakBytes?: number;
}

interface State extends Progress {
  method: string;
  methodOptions: Record<string, unknown>;
  backbone: string;
  /** The settings of the run that change its numbers. */
  settings: Record<string, unknown>;
  modelSteps: number;
  optimizerSteps: number;
}

function tensorsOf(model: PetlModel, optimizer: AdamW): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  for (const { name, tensor } of model.parameters()) {
    const { first, second } = optimizer.moments(name);
    tensors.set(`parameter.${name}`, tensor);
    tensors.set(`first.${name}`, first);
    tensors.set(`second.${name}`, second);
  }
  return tensors;
}

/** Writes a checkpoint, whole or not at all: an interrupted write leaves the one before it. */
export async function saveCheckpoint(
  path: string,
  model: PetlModel,
  optimizer: AdamW,
  progress: Progress,
  settings: Record<string, unknown>,
): Promise<void> {
  const state: State = {
    ...progress,
    method: model.method,
    methodOptions: { ...model.methodOptions },
    backbone: model.backbone.fingerprint,
    settings,
    modelSteps: model.steps,
    optimizerSteps: optimizer.steps,
  };
  const tensors: TensorToWrite[] = [...tensorsOf(model, optimizer)].map(([name, tensor]) => ({
    name,
    dtype: 'F32',
    shape: tensor.shape,
    data: async () => (await tensor.read()) as Float32Array,
  }));
  await writeSafetensors(path, tensors, { training_state: JSON.stringify(state) });
}

function stateIn(path: string, { metadata }: SafetensorsFile): State {
  if (metadata.training_state !== undefined) return JSON.parse(metadata.training_state) as State;
  throw new FormatError(`${path}: no training state in it (metadata 'training_state')`, { argument: 'training_state' });
}

/**
 * The settings of the run that a checkpoint is of, from its header.
 * @throws FileError, FormatError: not a checkpoint
 */
export async function checkpointSettings(path: string): Promise<Record<string, unknown>> {
  await using file = await openSafetensors(path);
  return stateIn(path, file).settings;
}

/**
 * Reads a checkpoint into a model and an optimizer that were made with the same settings.
 * @throws FileError, FormatError: not a checkpoint, or one of another run (it names the setting that differs)
 */
export async function loadCheckpoint(
  path: string,
  model: PetlModel,
  optimizer: AdamW,
  settings: Record<string, unknown>,
): Promise<Progress> {
  const file = await openSafetensors(path);
  try {
    const state = stateIn(path, file);
    const same = (what: string, stored: unknown, now: unknown): void => {
      const [got, expected] = [JSON.stringify(stored), JSON.stringify(now)];
      if (got === expected) return;
      throw new FormatError(`${path}: is of a run with ${what} ${got}, this one has ${expected}`, {
        argument: what,
        got,
        expected,
      });
    };
    same('method', state.method, model.method);
    same('method options', state.methodOptions, model.methodOptions);
    same('backbone', state.backbone, model.backbone.fingerprint);
    for (const name of new Set([...Object.keys(settings), ...Object.keys(state.settings)]))
      same(name, state.settings[name], settings[name]);

    const numbers = new Map<Tensor, Float32Array>();
    for (const [name, tensor] of tensorsOf(model, optimizer)) {
      const entry = file.tensors.get(name);
      const [got, expected] = [entry ? `[${entry.shape.join(', ')}]` : 'missing', `[${tensor.shape.join(', ')}]`];
      if (got !== expected)
        throw new FormatError(`${path}: tensor '${name}' is ${got}, expected shape ${expected}`, {
          argument: name,
          got,
          expected,
        });
      numbers.set(tensor, await file.readFloat32(name));
    }
    for (const [tensor, data] of numbers) tensor.write(data);
    model.steps = state.modelSteps;
    optimizer.steps = state.optimizerSteps;
    const { epoch, batch, lossSum, correct, images, peakBytes = 0 } = state;
    return { epoch, batch, lossSum, correct, images, peakBytes };
  } finally {
    await file.close();
  }
}
