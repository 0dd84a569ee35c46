import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';
import { recordProject } from './low_rank';

export interface LayerNormOptions {
  /** Added to the variance. Default 1e-6. */
  eps?: number;
  /**
   * For backward keep the normalised x in bytes instead of x: half as much beside bf16, where nobody else keeps x. It counts where x is in bf16 and neither
   * weight nor bias needs a gradient. Default false.
   */
  compact?: boolean;
}

/**
 * Layer normalisation over the last axis: `out = (x − mean) / √(variance + eps) · weight + bias`.
 * @param x - [..., d], f32 or bf16
 * @param weight - [d], f32
 * @param bias - [d], f32
 * @returns [..., d], dtype of x; statistics are computed in f32
 * Keeps for backward: x, or `compact` as many bytes, and two f32 numbers a row.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see Ba et al., arXiv 1607.06450
 * @example const y = ops.layerNorm(x, weight, bias, { eps: 1e-6 });
 */
export function layerNorm(
  x: Tensor,
  weight: Tensor,
  bias: Tensor,
  { eps = 1e-6, compact = false }: LayerNormOptions = {},
): Tensor {
  const inputs = { x, weight, bias };
  const needed = needs(inputs);
  const inBytes = compact && x.dtype === 'bf16' && !needed?.weight && !needed?.bias;
  const wanted = { mean: !inBytes, xhat: inBytes, step: inBytes };
  return recordNorm(inputs, kernels.layerNormForward({ ...inputs, eps }, { save: needed !== null, wanted }));
}

/**
 * Layer normalisation, and what a side layer reads of the same rows: `out = layerNorm(x)` and `u = x a`, in one pass over x.
 * @param x - [..., d], f32 or bf16
 * @param weight - [d], f32
 * @param bias - [d], f32
 * @param a - [d, r], f32
 * @returns out: [..., d], dtype of x; u: [..., r], f32
 * Keeps for backward: what {@link layerNorm} and {@link lowRankProject} keep: x once, and two f32 numbers a row.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see DTL, arXiv 2312.07856, eq. 5
 * @example const { out, u } = ops.layerNormProject(z, weight, bias, a);
 */
export function layerNormProject(
  x: Tensor,
  weight: Tensor,
  bias: Tensor,
  a: Tensor,
  { eps = 1e-6 }: Omit<LayerNormOptions, 'compact'> = {},
): { out: Tensor; u: Tensor } {
  const inputs = { x, weight, bias };
  const { u, ...norm } = kernels.layerNormProjectForward({ ...inputs, a, eps }, { save: needs(inputs) !== null });
  return { out: recordNorm(inputs, norm), u: recordProject({ z: x, a }, u) };
}

function recordNorm(
  inputs: { x: Tensor; weight: Tensor; bias: Tensor },
  { out, ...state }: { out: Tensor; mean?: Tensor; rstd?: Tensor; xhat?: Tensor; step?: Tensor },
): Tensor {
  const { x, weight } = inputs;
  const inBytes = state.xhat !== undefined;
  return record('layerNorm', inputs, out, {
    saved: { x: inBytes ? undefined : x, weight },
    state,
    backward: ({ gradOut, saved, wanted, pending, accumulator }) => {
      const { gradX } = kernels.layerNormBackward(
        {
          gradOut,
          ...(saved as { x: Tensor; weight: Tensor; mean: Tensor; rstd: Tensor; xhat: Tensor; step: Tensor }),
          residual: pending('x'),
          gradWeight: accumulator('weight'),
          gradBias: accumulator('bias'),
        },
        { wanted: { gradX: wanted.x ?? false }, kind: 'gradients' },
      );
      return { x: gradX };
    },
  });
}
