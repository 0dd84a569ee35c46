import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';
import type { PackedWeight } from './linear';

export interface MlpWeights {
  /** [H, I] */
  weight1: PackedWeight;
  /** [H], f32 */
  bias1?: Tensor | undefined;
  /** [O, H] */
  weight2: PackedWeight;
  /** [O], f32 */
  bias2?: Tensor | undefined;
}

export interface MlpOptions {
  /** The result takes the place of `residual`, which nobody keeps or reads again. Default false. */
  inPlace?: boolean;
}

/**
 * The MLP of a transformer block with frozen weights: `out = GELU(x W₁ᵀ + b₁) W₂ᵀ + b₂ + residual`. What `linear` twice gives, without the hidden numbers,
 * and in backward their gradient, ever being in memory as a whole.
 * @param x - [..., I], f32 or bf16
 * @param weights - packed in the dtype of x, or in i8 (see {@link linear})
 * @param residual - [..., O] in the dtype of x
 * @returns [..., O], dtype of x; sums are f32
 * Keeps for backward: GELU'(x W₁ᵀ + b₁), [..., H], f32; beside bf16 in bytes, to within 0.0026.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @example const z = ops.mlp(ops.layerNorm(z, gamma, beta), { weight1, bias1, weight2, bias2 }, z);
 */
export function mlp(
  x: Tensor,
  { weight1, bias1, weight2, bias2 }: MlpWeights,
  residual?: Tensor,
  { inPlace = false }: MlpOptions = {},
): Tensor {
  const inputs = { x, residual };
  const needed = needs(inputs);
  const first = needed ? weight1.differentiable(x.dtype) : weight1;
  const second = needed ? weight2.differentiable(x.dtype) : weight2;
  const place = inPlace ? residual : undefined;
  const { out: made, slope } = kernels.mlpForward(
    { x, weight1: first.forward, bias1, weight2: second.forward, bias2, residual, out: place },
    { save: needed?.x ?? false },
  );
  const out = place?.alias() ?? made;
  return record('mlp', inputs, out, {
    state: { slope },
    backward: ({ gradOut, saved, wanted }) => {
      if (!wanted.x) return { residual: gradOut };
      const { gradX } = kernels.mlpBackward(
        {
          gradOut,
          slope: saved.slope!,
          weight1: first.forBackward(),
          weight2: second.forBackward(),
        },
        { kind: 'gradients' },
      );
      return { x: gradX, residual: gradOut };
    },
  });
}

export interface MlpMeanOptions {
  /** Tokens at the start of each image that the mean leaves out, such as CLS. Default 0. */
  prefixTokens?: number;
}

/**
 * The mean of {@link mlp} over an image's tokens, `out_b = mean_{n ≥ P} GELU(x_{b,n} W₁ᵀ + b₁) W₂ᵀ + b₂` with P prefix tokens: the second layer is linear, so
 * the mean goes before it, and it is computed for a row an image instead of one a token, in forward and in backward.
 * @param x - [B, N, I], f32 or bf16
 * @param weights - as those of {@link mlp}
 * @returns [B, O], dtype of x; sums are f32, the mean before the second layer is rounded
 * Keeps for backward: as {@link mlp}.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError; ArgumentError when no token is left
 * @example const row = ops.mlpMean(ops.layerNorm(z, gamma, beta), { weight1, bias1, weight2, bias2 }, { prefixTokens: 1 });
 */
export function mlpMean(
  x: Tensor,
  { weight1, bias1, weight2, bias2 }: MlpWeights,
  { prefixTokens = 0 }: MlpMeanOptions = {},
): Tensor {
  const inputs = { x };
  const needed = needs(inputs);
  const first = needed ? weight1.differentiable(x.dtype) : weight1;
  const second = needed ? weight2.differentiable(x.dtype) : weight2;
  const { out, slope } = kernels.mlpMeanForward(
    { x, weight1: first.forward, bias1, weight2: second.forward, bias2, prefixTokens },
    { save: needed !== null },
  );
  return record('mlpMean', inputs, out, {
    state: { slope },
    backward: ({ gradOut, saved }) => {
      const { gradX } = kernels.mlpMeanBackward(
        {
          gradOut,
          slope: saved.slope!,
          weight1: first.forBackward(),
          weight2: second.forBackward(),
          prefixTokens,
        },
        { kind: 'gradients' },
      );
      return { x: gradX };
    },
  });
}
