/** The raw kernels with tensors instead of handles. Ops call these; what they check and return is written in native/<family>.h alone. */

import { ArgumentError } from './errors';
import { addon, type CallFlags, type Handle } from './native';
import type { Kernels } from './native_kernels';
import { Tensor } from './tensor';

function firstTensor(args: Record<string, unknown>): Tensor | undefined {
  for (const value of Object.values(args)) {
    if (value instanceof Tensor) return value;
    if (Array.isArray(value) && value[0] instanceof Tensor) return value[0];
  }
  return undefined;
}

function unwrap(args: Record<string, unknown>): Record<string, unknown> {
  const raw: Record<string, unknown> = {};
  for (const key in args) {
    const value = args[key];
    if (value instanceof Tensor) raw[key] = value.handle;
    else if (Array.isArray(value)) raw[key] = value.map((item) => (item instanceof Tensor ? item.handle : item));
    else raw[key] = value;
  }
  return raw;
}

let testFlags: CallFlags = {};
/** @internal For tests: flags of every call from now on. */
export function setTestFlags(flags: CallFlags): void {
  testFlags = flags;
}

function wrapKernel(name: string) {
  const raw = addon.kernels[name]!;
  return (args: Record<string, unknown>, flags: CallFlags = {}): Record<string, Tensor> => {
    if (args === null || typeof args !== 'object') throw new ArgumentError(`${name}: expected an object of arguments`);
    const outputs = raw(unwrap(args), { ...testFlags, ...flags }) as Record<string, Handle>;
    const device = firstTensor(args)?.device;
    const tensors: Record<string, Tensor> = {};
    for (const key in outputs) tensors[key] = new Tensor(device!, outputs[key]!);
    return tensors;
  };
}

export const kernels: Kernels = Object.fromEntries(
  Object.keys(addon.kernels).map((name) => [name, wrapKernel(name)]),
) as unknown as Kernels;

/** Bytes that a call must move and FLOPs that it takes, counted from the kernel's own declaration, without making the call. */
export function measure(kernel: keyof Kernels, args: object, flags: CallFlags = {}): { bytes: number; flops: number } {
  return addon.kernels[kernel]!.measure(unwrap(args as Record<string, unknown>), flags);
}
