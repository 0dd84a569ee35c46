import { AsyncLocalStorage } from 'node:async_hooks';
import type { Tensor } from './tensor';

/** Tensors made inside a scope; those that are still there when it ends are disposed, except what it returns. */
class Scope {
  #tensors = new Set<Tensor>();
  #ended = false;

  /** An asynchronous call that outlives its scope makes tensors of its own. */
  add(tensor: Tensor): void {
    if (this.#ended) return;
    this.#tensors.add(tensor);
    owners.set(tensor, this);
  }

  delete(tensor: Tensor): void {
    this.#tensors.delete(tensor);
    owners.delete(tensor);
  }

  end(result: unknown, parent: Scope | undefined): void {
    this.#ended = true;
    const kept = new Set<unknown>();
    collect(result, kept);
    for (const tensor of this.#tensors) {
      if (!kept.has(tensor)) {
        tensor.dispose();
        continue;
      }
      this.delete(tensor);
      parent?.add(tensor);
    }
  }
}

const current = new AsyncLocalStorage<Scope | undefined>();
const owners = new WeakMap<Tensor, Scope>();

// Marks what can be kept: set by lib/tensor.ts, so that this file needs no class at run time.
let isTensor: (value: unknown) => value is Tensor = (_value): _value is Tensor => false;
/** @internal */
export function setTensorTest(test: typeof isTensor): void {
  isTensor = test;
}

// Everything that can be reached in `value` through arrays, sets, maps and plain objects.
function collect(value: unknown, seen: Set<unknown>): void {
  if (value === null || typeof value !== 'object' || seen.has(value)) return;
  seen.add(value);
  if (isTensor(value)) return;
  if (Array.isArray(value) || value instanceof Set) {
    for (const item of value) collect(item, seen);
  } else if (value instanceof Map) {
    for (const item of value.values()) collect(item, seen);
  } else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) collect(item, seen);
  }
}

/** @internal The tensors in a value, each once, in the order in which they are met. */
export function tensorsOf(value: unknown): Tensor[] {
  const seen = new Set<unknown>();
  collect(value, seen);
  return [...seen].filter(isTensor);
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

/** Takes a tensor out of the scope that would dispose it, whichever that is; the caller disposes it from now on. */
export function keep<T extends Tensor>(tensor: T): T {
  unregister(tensor);
  return tensor;
}

/** Runs `body` with no scope around it: what it makes lives until it is disposed. */
export function outsideScopes<T>(body: () => T): T {
  return current.run(undefined, body); // not exit(): on Node 20 a run() inside it brings the outer store back
}

/** @internal */
export function register(tensor: Tensor): void {
  current.getStore()?.add(tensor);
}

/** @internal */
export function unregister(tensor: Tensor): void {
  owners.get(tensor)?.delete(tensor);
}
