/** Table 1 of the paper: how many modules a method adds or trains, and how many numbers are in them, counted from the methods themselves. */

import { Device } from '../lib/device';
import * as models from '../lib/models';
import type { PetlModel } from '../lib/petl';
import type { Control, Result } from './control';
import { host } from './harness';
import { adapt, tableMethods } from './setup';

export interface UnitsRow {
  method: string;
  /** What is trained, the head excluded, counted in `unit`s. */
  units: number;
  /** Trained numbers, the head excluded. */
  parameters: number;
  /** What counts as one: for most methods a module, whatever tensors it is made of. */
  unit: string;
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
    const { unit, count } = rules[method] ?? byModule;
    return { method, units: count(adapted), parameters: adapted.parameterCount, unit };
  });
  return { host: host(device), rows };
}

interface Rule {
  unit: string;
  count(model: PetlModel): number;
}

/** A side layer's a and c are one module, so are a linear layer's weight and bias, and both layers of a bottleneck. */
const byModule: Rule = { unit: 'module', count: (model) => new Set(tensorsOf(model).map(moduleOf)).size };

/** FacT has few tensors of its own, each of which changes every slice. */
const bySlice: Rule = {
  unit: 'd × d slice of a matrix',
  count: ({ backbone: { config } }) => config.depth * (3 + 1 + (2 * config.hidden) / config.dim),
};

/** Where the paper's Table 1 counts in something else than modules. */
const rules: Readonly<Record<string, Rule>> = {
  factTt: bySlice,
  factTk: bySlice,
  ssf: { unit: 'scale or shift', count: (model) => tensorsOf(model).length },
};

function tensorsOf(model: PetlModel): string[] {
  return model
    .parameters()
    .map(({ name }) => name)
    .filter((name) => !name.startsWith('head.'));
}

/** 'side.3.a' → 'side.3', 'adapter.0.mlp.down.weight' → 'adapter.0.mlp'; 'cls_token' and 'lst.gate.3' are modules by themselves. */
function moduleOf(tensor: string): string {
  if (!tensor.includes('.') || /\.\d+$/.test(tensor)) return tensor;
  return tensor.slice(0, tensor.lastIndexOf('.')).replace(/(?<=\.\w+)\.(down|up)$/, '');
}
