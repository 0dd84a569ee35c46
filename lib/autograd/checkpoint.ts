import { labelled } from '../label';
import { scope } from '../scope';
import type { Tensor } from '../tensor';
import { Tape } from './tape';

/**
 * Runs `body(...inputs)` without keeping anything for backward but the inputs; backward runs it a second time, recorded, and differentiates that.
 * Trades time for memory. `body` must compute the same in both runs: random numbers it uses come in as inputs or from a fixed counter.
 * Gradients reach `inputs` and every tracked tensor that `body` uses.
 * @param body - returns one tensor or an array of them
 */
export function checkpoint<T extends Tensor | Tensor[]>(body: (...inputs: Tensor[]) => T, inputs: Tensor[]): T {
  const tape = Tape.current();
  if (!tape) return scope(() => body(...inputs));
  const dry = new Tape(tape, { dry: true });
  const result = scope(() => dry.run(() => body(...inputs)));
  const outputs = Array.isArray(result) ? result : [result];
  const tracked = outputs.map((output) => dry.tracks(output));
  if (tape.dry) {
    for (const [index, output] of outputs.entries()) if (tracked[index]) tape.watch(output);
    return result;
  }
  const differentiable = outputs.filter((_, index) => tracked[index]);
  if (differentiable.length === 0) return result;
  // The caller may dispose the inputs before backward, which therefore works on the aliases that the tape keeps.
  tape.recordReplay(inputs, differentiable, (grads, saved) => {
    const replay = new Tape(tape);
    let repeated: Tensor[] = [];
    try {
      for (const [index, tensor] of saved.entries()) replay.identify(tensor, inputs[index]!);
      const again = scope(() => labelled('recompute', () => replay.run(() => body(...saved))));
      repeated = Array.isArray(again) ? again : [again];
      for (const [index, output] of repeated.filter((_, place) => tracked[place]).entries()) {
        const grad = grads[index];
        if (grad) replay.seed(output, grad);
      }
      for (const output of repeated) output.dispose();
      replay.backward();
    } finally {
      for (const output of repeated) output.dispose();
      replay.dispose();
    }
  });
  return result;
}
