/** Every kernel beside the machine's roofs, at the shapes that a vision transformer gives it. */

import { Device } from '../lib/device';
import { ArgumentError } from '../lib/errors';
import * as models from '../lib/models';
import type { Control, Place, Result } from './control';
import {
  type BenchShape,
  besideRoof,
  type Compute,
  higher,
  host,
  type KernelBench,
  type KernelRow,
  type KernelTiming,
  measureRoof,
  timeKernel,
} from './harness';
import { adamwBenches } from './kernels/adamw';
import { attentionBenches } from './kernels/attention';
import { crossEntropyBenches } from './kernels/cross_entropy';
import { depthwiseConvBenches } from './kernels/depthwise_conv';
import { dropoutBenches } from './kernels/dropout';
import { elementwiseBenches } from './kernels/elementwise';
import { factorBenches } from './kernels/factor';
import { gateBenches } from './kernels/gate';
import { geluBenches } from './kernels/gelu';
import { layerNormBenches } from './kernels/layer_norm';
import { linearBenches } from './kernels/linear';
import { lowRankBenches } from './kernels/low_rank';
import { mlpBenches } from './kernels/mlp';
import { patchEmbedBenches } from './kernels/patch_embed';
import { poolBenches } from './kernels/pool';
import { promptBenches } from './kernels/prompt';
import { randomBenches } from './kernels/random';
import { reluBenches } from './kernels/relu';
import { scaleShiftBenches } from './kernels/scale_shift';
import { sideInjectBenches } from './kernels/side_inject';
import { sliceBenches } from './kernels/slice';
import { swishBenches } from './kernels/swish';

/** The cases of each family, in the order and under the names of native/kernels.def. */
export const kernelBenches: Readonly<Record<string, readonly KernelBench[]>> = {
  layer_norm: layerNormBenches,
  scale_shift: scaleShiftBenches,
  linear: linearBenches,
  mlp: mlpBenches,
  patch_embed: patchEmbedBenches,
  swish: swishBenches,
  low_rank: lowRankBenches,
  depthwise_conv: depthwiseConvBenches,
  side_inject: sideInjectBenches,
  gate: gateBenches,
  attention: attentionBenches,
  gelu: geluBenches,
  relu: reluBenches,
  dropout: dropoutBenches,
  pool: poolBenches,
  prompt: promptBenches,
  slice: sliceBenches,
  factor: factorBenches,
  cross_entropy: crossEntropyBenches,
  elementwise: elementwiseBenches,
  adamw: adamwBenches,
  random: randomBenches,
};

export interface KernelsOptions extends Control, Place {
  /** Of `models.vitPresets`: tokens, width, heads and so on of the shapes. */
  model: string;
  batch: readonly number[];
  dtype: readonly Compute[];
  /** Which cases: matched against 'kernel label'. */
  filter?: RegExp;
}

/** @throws ArgumentError for a filter that leaves nothing, or an unknown model */
export async function kernels({ filter, signal, onProgress, ...options }: KernelsOptions): Promise<Result<KernelRow>> {
  const shape = shapeOf(options.model);
  await using device = await Device.open(options.device);
  const { backend } = device.info();
  const all = Object.values(kernelBenches)
    .flat()
    .filter(({ backend: only = backend }) => only === backend);
  const chosen = all.filter(({ kernel, label = '' }) => !filter || filter.test(`${kernel} ${label}`));
  if (chosen.length === 0) {
    const known = [...new Set(all.map(({ kernel }) => kernel))].join(', ');
    throw new ArgumentError(`kernels: no kernel matches ${filter}, known: ${known}`, { argument: 'filter' });
  }
  const cases = options.dtype.flatMap((dtype) =>
    options.batch.flatMap((batch, i) =>
      chosen
        .filter(({ perBatch, int8 }) => (perBatch !== false || i === 0) && (dtype !== 'int8' || int8))
        .map((bench) => ({ dtype, batch, bench })),
    ),
  );
  const timings: KernelTiming[] = [];
  const total = cases.length + 2;
  onProgress?.(0, total, "the machine's roofs");
  const before = await measureRoof(device, signal);
  if (!before) return { host: host(device), rows: [] };
  for (const { dtype, batch, bench } of cases) {
    if (signal?.aborted) break;
    onProgress?.(timings.length + 1, total, `${bench.kernel} ${dtype} batch ${batch}`);
    timings.push(await timeKernel(bench, { ...shape, device, dtype, batch }));
  }
  if (!signal?.aborted) onProgress?.(total - 1, total, "the machine's roofs again");
  const after = await measureRoof(device, signal);
  const roof = after ? higher(before, after) : before;
  onProgress?.(timings.length + 2, total, 'done');
  return { host: { ...host(device), roof }, rows: timings.map((timing) => besideRoof(timing, roof)) };
}

function shapeOf(model: string): Pick<BenchShape, 'tokens' | 'width' | 'heads' | 'hidden' | 'grid'> {
  const config = models.vitPresets[model];
  if (!config) {
    const known = Object.keys(models.vitPresets).join(', ');
    throw new ArgumentError(`kernels: unknown model '${model}', known: ${known}`, { argument: 'model', got: model });
  }
  const side = config.imageSize / config.patchSize;
  return { tokens: side * side + 1, width: config.dim, heads: config.heads, hidden: config.hidden, grid: [side, side] };
}
