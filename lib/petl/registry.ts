import { ArgumentError } from '../errors';
import type { Vit } from '../models';
import type { PetlModel } from './model';
import type { ModelOptions } from './model_options';

type AnyMethod = (backbone: Vit, options: ModelOptions) => PetlModel;

const methods = new Map<string, AnyMethod>();

/** @internal `define` enters each method: adapters on disk name theirs. */
export function registerMethod(name: string, method: AnyMethod): void {
  if (methods.has(name))
    throw new ArgumentError(`petl.define: a method '${name}' exists already`, {
      kernel: 'petl.define',
      argument: 'name',
      got: name,
    });
  methods.set(name, method);
}

/** The method of a name, built in or defined in this process. */
export function methodNamed(name: string): AnyMethod | undefined {
  return methods.get(name);
}

/** Names of all methods. */
export function methodNames(): string[] {
  return [...methods.keys()];
}
