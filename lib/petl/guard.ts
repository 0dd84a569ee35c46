/** What a method's hook does wrong is said with the method, the hook and the place in the backbone; nothing that it made stays behind. */

import { MethodError, SidetuneError } from '../errors';
import type { ForwardContext, Hooks } from '../models';
import { scope } from '../scope';
import { Tensor } from '../tensor';

type Hook = Exclude<keyof Hooks, 'touches'>;

/** Hooks of the tokens between blocks may make a sequence longer or shorter; the others keep the shape that they are given. */
const free: readonly Hook[] = ['tokens', 'beforeBlock', 'afterBlock', 'features'];

/** Which argument of a hook is the tensor whose place the result takes. */
const given: Record<Exclude<Hook, 'reads'>, number> = {
  patches: 0,
  tokens: 0,
  beforeBlock: 1,
  norm: 1,
  linear: 2,
  branch: 2,
  dropped: 2,
  stream: 2,
  afterBlock: 1,
  features: 0,
};

/** 'block 3', 'block 3, attn', 'block 1, blocks.0.attn.qkv'; nothing for hooks that run once. */
function placeOf(args: readonly unknown[]): string {
  const [first, second] = args;
  if (typeof first === 'number') return ` at block ${first}${typeof second === 'string' ? `, ${second}` : ''}`;
  if (typeof first !== 'string') return '';
  const block = /^blocks\.(\d+)\./.exec(first);
  return block ? ` at block ${Number(block[1]) + 1}, ${first}` : ` at ${first}`;
}

/**
 * A hook of the model from a hook of a method: temporaries go with the call, errors say where they come from.
 * @param body - gets the hook's arguments without the context, and the context
 */
export function guarded(
  method: string,
  hook: Hook,
  body: (args: readonly unknown[], context: ForwardContext) => unknown,
): (...args: unknown[]) => Tensor | undefined {
  return (...all) => {
    const context = all.at(-1) as ForwardContext;
    const args = all.slice(0, -1);
    const fail = (message: string, details: { got?: string; expected?: string; cause?: unknown }): never => {
      throw new MethodError(`petl.${method}, hook '${hook}'${placeOf(args)}: ${message}`, {
        kernel: `petl.${method}`,
        argument: hook,
        ...details,
      });
    };
    let result: unknown;
    try {
      // What a hook leaves in the state lives on with the pass.
      [result] = scope(() => [body(args, context), context.state] as const);
    } catch (error) {
      if (error instanceof MethodError) throw error;
      if (!(error instanceof SidetuneError)) return fail(String(error), { cause: error });
      error.message = `petl.${method}, hook '${hook}'${placeOf(args)}: ${error.message}`;
      throw error;
    }
    if (hook === 'reads' && result === undefined) return undefined;
    if (!(result instanceof Tensor)) {
      return fail(`returned ${result instanceof Promise ? 'a promise' : String(result)}, expected a tensor`, {
        got: typeof result,
        expected: 'a tensor',
      });
    }
    if (result.disposed) return fail('returned a tensor that it had disposed', { got: 'a disposed tensor' });
    if (hook === 'reads') {
      const { dim } = context.backbone.config;
      if (result.shape.length === 2 && result.shape[0] === dim && result.dtype === 'f32') return result;
      const [got, expected] = [`[${result.shape.join(', ')}] ${result.dtype}`, `[${dim}, r] f32`];
      return fail(`returned ${got}, expected ${expected}`, { got, expected });
    }
    const before = args[given[hook]] as Tensor;
    const [from, to] = [before.shape, result.shape];
    const rows = free.includes(hook) && to.length === 3 ? to[1]! : from[1];
    const expected = from.length === 3 ? [from[0], rows, from[2]] : from;
    if (String(to) !== String(expected) || result.dtype !== before.dtype) {
      const wanted = free.includes(hook) ? `[${from[0]}, tokens, ${from[2]}]` : `[${from.join(', ')}]`;
      const [got, kind] = [`[${to.join(', ')}] ${result.dtype}`, `${wanted} ${before.dtype}`];
      return fail(`returned ${got}, expected ${kind}`, { got, expected: kind });
    }
    return result;
  };
}
