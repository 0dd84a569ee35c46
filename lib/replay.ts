import type { Device } from './device';
import { DeviceError } from './errors';
import { addon, type Handle } from './native';
import { tensorsOf } from './scope';
import { Tensor } from './tensor';

/** Tensors by name whose numbers differ from run to run. */
export type ReplayInputs = Readonly<Record<string, Tensor>>;

/** What {@link Device.record} gives. */
export interface Recorded<Inputs extends ReplayInputs, Result> {
  replay: Replay<Inputs, Result>;
  /** What `body` returned: as after any call, the caller's. */
  result: Result;
}

/**
 * Calls that {@link Device.record} recorded. {@link run} makes them again without the time that JavaScript needs for each: as one task of the stream, on CUDA
 * as one graph.
 *
 * Between runs a replay holds no memory. A run uses the addresses of the recording again, which must be free: tensors made since may be in the way (then
 * {@link obstacle} says so). Tensors that the calls read and that were there before must not be disposed; what they hold by then is what a run reads.
 * Options are those of the recording: what must differ from run to run (a learning rate, random numbers) is a call of its own outside, or an input.
 */
export class Replay<Inputs extends ReplayInputs, Result> {
  readonly #device: Device;
  readonly #handle: Handle;
  readonly #inputs: readonly string[];
  readonly #shape: Result; // what `body` returned: its tensors, disposed or not, stand for their places
  readonly #places: readonly Tensor[];

  /** @internal Use `device.record`. */
  constructor(device: Device, handle: Handle, inputs: readonly string[], shape: Result) {
    this.#device = device;
    this.#handle = handle;
    this.#inputs = inputs;
    this.#shape = shape;
    this.#places = tensorsOf(shape);
  }

  /** How many calls a run makes. */
  get calls(): number {
    return addon.replayCalls(this.#handle);
  }

  /** Why it cannot run now; undefined when it can. */
  get obstacle(): string | undefined {
    return addon.replayObstacle(this.#handle);
  }

  /**
   * Lets `fill` put numbers into the inputs and queues all calls. Errors that happen late arrive as those of any call do.
   * @param fill - writes the inputs (`tensor.write`, `copyFrom`, random numbers); they are disposed when it returns
   * @returns what `body` returned, with new tensors. The caller disposes them, before the next run.
   * @throws DisposedError; DeviceError when there is an {@link obstacle}; MemoryError when the calls would pass the device's limit; what `fill` throws. Then
   * nothing was queued but what `fill` did.
   */
  run(fill: (inputs: Inputs) => void): Result {
    const inputs = addon.replayInputs(this.#handle).map((handle) => new Tensor(this.#device, handle));
    try {
      fill(Object.fromEntries(this.#inputs.map((name, index) => [name, inputs[index]!])) as unknown as Inputs);
    } finally {
      for (const tensor of inputs) tensor.dispose();
    }
    const handles = addon.replayRun(this.#handle);
    const results = new Map(this.#places.map((place, index) => [place, new Tensor(this.#device, handles[index]!)]));
    return rebuild(this.#shape, results) as Result;
  }

  /** Lets go of the recording. Results that are still there live on. */
  dispose(): void {
    addon.replayDispose(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function rebuild(value: unknown, tensors: ReadonlyMap<unknown, Tensor>): unknown {
  if (value === null || typeof value !== 'object') return value;
  const tensor = tensors.get(value);
  if (tensor) return tensor;
  const item = (part: unknown): unknown => rebuild(part, tensors);
  if (Array.isArray(value)) return value.map(item);
  if (value instanceof Set) return new Set([...value].map(item));
  if (value instanceof Map) return new Map([...value].map(([key, part]) => [key, item(part)]));
  if (Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, item(part)]));
}

const recording = new WeakSet<Device>();

/** @internal For ops whose numbers would be the same in every run. */
export function refuseWhileRecording(op: string, device: Device): void {
  if (!recording.has(device)) return;
  throw new DeviceError(
    `${op}: a replay would draw the random numbers of now again, so none are drawn while calls are recorded; draw them into an input of the recording`,
    { kernel: op },
  );
}

/** @internal Behind `device.record`. */
export function record<Inputs extends ReplayInputs, Result>(
  device: Device,
  inputs: Inputs,
  body: (inputs: Inputs) => Result,
): Recorded<Inputs, Result> {
  const tensors = Object.values(inputs);
  let results: Tensor[] = [];
  let done = false;
  try {
    const handle = addon.deviceStartRecording(
      device.handle,
      tensors.map((tensor) => tensor.handle),
    );
    recording.add(device);
    try {
      const result = body(inputs);
      results = tensorsOf(result);
      for (const tensor of tensors) tensor.dispose();
      addon.deviceStopRecording(
        device.handle,
        handle,
        results.map((tensor) => tensor.handle),
      );
      done = true;
      return { replay: new Replay(device, handle, Object.keys(inputs), result), result };
    } finally {
      recording.delete(device);
      if (!done) addon.deviceDropRecording(device.handle);
    }
  } finally {
    for (const tensor of done ? tensors : [...tensors, ...results]) tensor.dispose();
  }
}
