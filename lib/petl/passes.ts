import { Tape } from '../autograd';
import type { Device } from '../device';
import type { Replay, ReplayInputs } from '../replay';
import { Tensor } from '../tensor';

/** What a pass reads that differs from call to call. */
export interface PassInput {
  shape: readonly number[];
  dtype?: 'f32' | 'i32';
  /** Writes the numbers of this call. */
  fill(tensor: Tensor): void;
}

const mostReplays = 8;

/**
 * A model's passes by batch size. The first of its kind makes its calls, which also makes what every pass needs (buffers, widened weights); the second is recorded;
 * from then on it is replayed ({@link Device.record}). Where a replay has an obstacle, the pass makes its calls and the next one is recorded anew.
 */
export class Passes {
  readonly #replays = new Map<string, Replay<ReplayInputs, unknown> | undefined>(); // oldest first; undefined: seen
  constructor(
    private readonly device: Device,
    private readonly enabled: boolean,
  ) {}

  /**
   * @param key - equal for passes that make the same calls
   * @param body - makes the calls and returns tensors; the inputs are not its to keep
   */
  run<Names extends string, Result>(
    key: string,
    inputs: Record<Names, PassInput>,
    body: (inputs: Record<Names, Tensor>) => Result,
  ): Result {
    const names = Object.keys(inputs) as Names[];
    const fill = (tensors: ReplayInputs): void => {
      for (const name of names) inputs[name].fill(tensors[name]!);
    };
    const make = (): Record<Names, Tensor> => {
      const tensors = {} as Record<Names, Tensor>;
      try {
        for (const name of names) {
          const { shape, dtype = 'f32' } = inputs[name];
          tensors[name] = Tensor.empty(this.device, shape, { dtype, kind: 'data' });
        }
        fill(tensors);
      } catch (error) {
        for (const tensor of Object.values<Tensor>(tensors)) tensor.dispose();
        throw error;
      }
      return tensors;
    };

    // Who differentiates or traces the pass wants its calls; a planning device makes none.
    if (!this.enabled || this.device.plan || this.device.tracing || Tape.current()) return call(make(), body);
    const replay = this.#replays.get(key);
    if (replay && replay.obstacle === undefined) return replay.run(fill) as Result;
    const seen = this.#replays.has(key);
    this.forget(key);
    if (replay || !seen) {
      const result = call(make(), body);
      this.#remember(key, undefined);
      return result;
    }
    const recorded = this.device.record(make(), body);
    this.#remember(key, recorded.replay as unknown as Replay<ReplayInputs, unknown>);
    return recorded.result;
  }

  #remember(key: string, replay: Replay<ReplayInputs, unknown> | undefined): void {
    this.#replays.set(key, replay);
    const [oldest] = this.#replays.keys();
    if (this.#replays.size > mostReplays) this.forget(oldest!);
  }

  forget(key: string): void {
    this.#replays.get(key)?.dispose();
    this.#replays.delete(key);
  }

  dispose(): void {
    for (const key of [...this.#replays.keys()]) this.forget(key);
  }
}

function call<Inputs extends ReplayInputs, Result>(inputs: Inputs, body: (inputs: Inputs) => Result): Result {
  try {
    return body(inputs);
  } finally {
    for (const tensor of Object.values(inputs)) tensor.dispose();
  }
}
