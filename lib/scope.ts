import { AsyncLocalStorage } from 'node:async_hooks';
import type { Tensor } from './tensor';

/** Tensors made inside a scope; those that are still there when it ends are disposed, except what it returns. */
class Scope {
  readonly tensors = new Set<Tensor>();

  end(keep: unknown, parent: Scope | undefined): void {
    const kept = new Set<Tensor>();
    collect(keep, kept);
    for (const tensor of this.tensors) {
      if (kept.has(tensor)) parent?.tensors.add(tensor);
      else tensor.dispose();
    }
    this.tensors.clear();
  }
}

const current = new AsyncLocalStorage<Scope>();

// Marks what can be kept: set by lib/tensor.ts, so that this file needs no class at run time.
let isTensor: (value: unknown) => value is Tensor = (_value): _value is Tensor => false;
/** @internal */
export function setTensorTest(test: typeof isTensor): void {
  isTensor = test;
}

function collect(value: unknown, into: Set<Tensor>): void {
  if (isTensor(value)) {
    into.add(value);
  } else if (Array.isArray(value) || value instanceof Set) {
    for (const item of value) collect(item, into);
  } else if (value instanceof Map) {
    for (const item of value.values()) collect(item, into);
  } else if (value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) collect(item, into);
  }
}

/**
 * Runs `body` and disposes every tensor that was made inside, except those that it returns (alone, or in arrays, plain objects, maps and sets).
 * Works with async functions too: the scope follows the asynchronous context. When `body` throws, all tensors made inside are disposed.
 *
 * @example
 * const y = scope(() => ops.gelu(ops.linear(x, weight)));   // the product in between is gone
 */
export function scope<T>(body: () => T): T {
  const parent = current.getStore();
  const own = new Scope();
  let result: T;
  try {
    result = current.run(own, body);
  } catch (error) {
    own.end(undefined, parent);
    throw error;
  }
  if (result instanceof Promise) {
    return result.then(
      (value) => {
        own.end(value, parent);
        return value;
      },
      (error) => {
        own.end(undefined, parent);
        throw error;
      },
    ) as T;
  }
  own.end(result, parent);
  return result;
}

/** Takes a tensor out of the scope that would dispose it; the caller disposes it from now on. */
export function keep<T extends Tensor>(tensor: T): T {
  current.getStore()?.tensors.delete(tensor);
  return tensor;
}

/** Runs `body` with no scope around it: what it makes lives until it is disposed. */
export function outsideScopes<T>(body: () => T): T {
  return current.exit(body);
}

/** @internal */
export function register(tensor: Tensor): void {
  current.getStore()?.tensors.add(tensor);
}

/** @internal */
export function unregister(tensor: Tensor): void {
  current.getStore()?.tensors.delete(tensor);
}
