/** Table 1 of the paper: how many modules a method adds or trains, and how many numbers are in them, counted from the methods themselves. */

import { Device } from '../lib/device';
import * as models from '../lib/models';
import type { Control, Result } from './control';
import { host } from './harness';
import { adapt, tableMethods } from './setup';

export interface UnitsRow {
  method: string;
  /** Modules with trained tensors, the head excluded: a side layer's a and c are one, so is a linear layer's weight and bias. */
  units: number;
  /** Trained numbers, the head excluded. */
  parameters: number;
}

/** Nothing is computed: a planning device knows the shapes. */
export async function units({
  model = 'vit_base_patch16_224',
  methods = tableMethods,
}: { model?: string; methods?: readonly string[] } & Control = {}): Promise<Result<UnitsRow>> {
  await using device = await Device.open('cpu', { plan: true });
  const rows = methods.map((method) => {
    using backbone = models.vit(device, model);
    using adapted = adapt(method, backbone);
    return { method, units: unitsOf(adapted.parameters().map(({ name }) => name)), parameters: adapted.parameterCount };
  });
  return { host: host(device), rows };
}

/** 'side.3.a' and 'side.3.c' belong to the module 'side.3'; 'cls_token' is one by itself. */
function unitsOf(names: readonly string[]): number {
  const modules = names.map((name) => (name.includes('.') ? name.slice(0, name.lastIndexOf('.')) : name));
  return new Set(modules.filter((module) => module !== 'head')).size;
}
