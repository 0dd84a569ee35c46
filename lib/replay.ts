import type { Device } from './device';
import { DeviceError } from './errors';
import { addon, type Handle } from './native';

/**
 * Calls that {@link Device.record} recorded. `run()` makes them again on the same tensors, without the time that JavaScript needs for each: as one task of
 * the stream, on CUDA as one graph.
 *
 * What a run reads is what the tensors hold by then, so new inputs are written into the tensors that were read while recording (`tensor.write`), and results
 * appear in `result`. Options are those of the recording: what must differ from run to run (a learning rate, random numbers) is a call of its own outside.
 */
export class Replay<T> {
  /** What `body` returned while recording; every run writes its tensors anew. They live until {@link dispose}, even if they are disposed before. */
  readonly result: T;
  readonly #handle: Handle;

  /** @internal Use `device.record`. */
  constructor(handle: Handle, result: T) {
    this.#handle = handle;
    this.result = result;
  }

  /** How many calls a run makes. */
  get calls(): number {
    return addon.replayCalls(this.#handle);
  }

  /**
   * Queues all calls. Errors that happen late arrive as those of any call do.
   * @throws DisposedError; DeviceError when the device is closed, or when memory that the calls use for a moment is in use by a tensor made since the recording
   */
  run(): void {
    addon.replayRun(this.#handle);
  }

  dispose(): void {
    addon.replayDispose(this.#handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const recording = new WeakSet<Device>();

/** @internal For ops whose numbers would be the same in every run. */
export function refuseWhileRecording(op: string, device: Device): void {
  if (!recording.has(device)) return;
  throw new DeviceError(
    `${op}: a replay would draw the random numbers of now again, so none are drawn while calls are recorded; draw them before, into a tensor that the recorded calls read`,
    { kernel: op },
  );
}

/** @internal Behind `device.record`. */
export function record<T>(device: Device, body: () => T): Replay<T> {
  addon.deviceStartRecording(device.handle);
  recording.add(device);
  let recorded = false;
  try {
    const result = body();
    recorded = true;
    return new Replay(addon.deviceStopRecording(device.handle, true)!, result);
  } finally {
    recording.delete(device);
    if (!recorded) addon.deviceStopRecording(device.handle, false);
  }
}
