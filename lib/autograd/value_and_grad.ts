import { ArgumentError } from '../errors';
import { labelled } from '../label';
import { outsideScopes, scope } from '../scope';
import { Tensor } from '../tensor';
import { type Retained, Tape } from './tape';

export type Parameters = readonly Tensor[] | Readonly<Record<string, Tensor>>;
export type GradientsOf<P extends Parameters> = { -readonly [K in keyof P]: Tensor };

export interface ValueAndGradOptions {
  /** Called between forward and backward with what the tape keeps, see {@link Retained}. */
  onRetained?(retained: Retained[]): void;
  /** Called after backward with the keys of the parameters that no gradient reached; theirs will be zeros. */
  onUnreached?(keys: string[]): void;
  /** Where backward starts: the gradient by the loss, f32 of shape [1]. Default: 1. */
  gradOut?: Tensor;
}

/**
 * Runs `body`, which returns a loss of one number, and differentiates it by `parameters`.
 * @param body - calls ops and returns the loss, f32 of shape [1]; everything else that it makes is disposed
 * @param parameters - an array or a record of tensors
 * @returns `value`: the loss; `grads`: f32 gradients in the same array or record form. The caller disposes them.
 * @throws whatever `body` throws; then nothing is kept. ArgumentError when the loss is not one number.
 * @example
 * const { value, grads } = autograd.valueAndGrad(() => loss(model.forward(x), y), { a, c });
 */
export function valueAndGrad<P extends Parameters>(
  body: () => Tensor,
  parameters: P,
  options: ValueAndGradOptions = {},
): { value: Tensor; grads: GradientsOf<P> } {
  const tape = new Tape();
  const entries = Object.entries(parameters) as [string, Tensor][];
  for (const [, tensor] of entries) tape.watch(tensor);
  const run = (): { value: Tensor; grads: GradientsOf<P> } => {
    const grads: [string, Tensor][] = [];
    try {
      const value = scope(() => labelled('forward', () => tape.run(body)));
      if (!(value instanceof Tensor) || value.size !== 1) {
        throw new ArgumentError('valueAndGrad: the body must return a tensor of one number, the loss', {
          kernel: 'valueAndGrad',
        });
      }
      options.onRetained?.(tape.report());
      const gradOut = options.gradOut ?? Tensor.from(value.device, [1], [1], { kind: 'gradients' });
      tape.seed(value, gradOut);
      if (gradOut !== options.gradOut) gradOut.dispose();
      labelled('backward', () => tape.backward());
      options.onUnreached?.(entries.filter(([, tensor]) => !tape.reached(tensor)).map(([key]) => key));
      for (const [key, tensor] of entries) grads.push([key, tape.takeGradient(tensor)]);
      const result = Array.isArray(parameters) ? grads.map(([, grad]) => grad) : Object.fromEntries(grads);
      return { value, grads: result as GradientsOf<P> };
    } catch (error) {
      for (const [, grad] of grads) grad.dispose();
      throw error;
    } finally {
      tape.dispose();
    }
  };
  // The caller's own: no scope around the call disposes them. The one inside takes what is left when something throws.
  return outsideScopes(() => scope(run));
}

/** Runs `body` without recording: what it computes is a constant for every gradient. */
export function noGrad<T>(body: () => T): T {
  return new Tape(null).run(body);
}

/** Names a part of the model in traces and in retained-bytes reports while `body` runs; in backward, too. */
export function block<T>(name: string, body: () => T): T {
  const tape = Tape.current();
  if (!tape) return labelled(name, body);
  const before = tape.block;
  tape.block = name;
  try {
    return labelled(name, body);
  } finally {
    tape.block = before;
  }
}
