import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import { inSteps } from '../steps';
import type { Tensor } from '../tensor';
import { factorGradients, factorInputs } from './low_rank';

export interface SideInjectOptions {
  /** β of θ(x) = x·sigmoid(βx). Default 100. */
  beta?: number;
  /** DTL+: the depthwise kernel g, [d, 1, k, k], f32. Without it g is the identity. */
  weight?: Tensor | undefined;
  /** Rows and columns of the patch grid; with `weight`. */
  grid?: readonly [number, number];
  /** Tokens before the grid (CLS), which pass by g; with `weight`. Default 0. */
  prefixTokens?: number;
}

/**
 * Puts the side state into the stream: `out = z + g(θ(h))`, in one pass; θ(h) never lies in memory as a whole.
 * @param z - [..., d], f32 or bf16; with `weight` [B, prefixTokens + rows·columns, d]
 * @param h - shape of z, f32
 * @returns shape and dtype of z
 * Keeps for backward: h itself, no copy, if h or the kernel needs a gradient; the tape walks it back. The gradient of z is that of
 * the result.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see DTL, arXiv 2312.07856, eq. 7–9
 * @example const y = ops.sideInject(z, h, { beta: 100, weight: g, grid: [14, 14], prefixTokens: 1 });
 */
export function sideInject(z: Tensor, h: Tensor, { weight, ...options }: SideInjectOptions = {}): Tensor {
  const inputs = { z, h, weight };
  const needed = needs(inputs);
  const { out } = kernels.sideInjectForward({ ...inputs, ...options });
  return record('sideInject', inputs, out, {
    saved: needed?.h || needed?.weight ? { h, weight } : {},
    backward: ({ gradOut, saved, wanted, pending, accumulator }) => {
      if (!wanted.h && !wanted.weight) return { z: gradOut };
      const { gradH } = kernels.sideInjectBackward(
        {
          gradOut,
          h: saved.h!,
          weight: saved.weight,
          residual: pending('h'),
          gradWeight: accumulator('weight'),
          ...options,
        },
        { wanted: { gradH: wanted.h ?? false }, kind: 'gradients' },
      );
      return { z: gradOut, h: gradH };
    },
  });
}

/**
 * The same for a side state that is never formed: `out = z + g(θ(Σ_j u_j c_j))`. What the side layers read of the blocks so far, r numbers a token each, makes
 * up h wherever it is needed, in registers; it takes no memory, and nothing is changed in place.
 * @param z - [..., d], f32 or bf16; with `weight` [B, prefixTokens + rows·columns, d]
 * @param us - for each block so far [..., r], f32: `z a` of {@link layerNormProject} or {@link lowRankProject}
 * @param cs - for each of them [r, d], f32
 * @returns shape and dtype of z
 * Keeps for backward: us, if they, cs or the kernel need a gradient. The gradient of z is that of the result.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see DTL, arXiv 2312.07856, eq. 5 and 7–9
 * @example const y = ops.sideInjectLowRank(z, [u1, u2], [c1, c2], { beta: 100 });
 */
export function sideInjectLowRank(
  z: Tensor,
  us: readonly Tensor[],
  cs: readonly Tensor[],
  { weight, ...options }: SideInjectOptions = {},
): Tensor {
  const { out } = kernels.sideInjectLowRankForward({ z, u: us, c: cs, weight, ...options });
  const { inputs: factors, uNames, cNames } = factorInputs(us, cs);
  const state = { ...factors, weight };
  return record('sideInjectLowRank', { z, ...state }, out, {
    saved: needs(state) ? state : {},
    backward: (context) => {
      const { gradOut, saved, accumulator } = context;
      const [ofFactors, gradWeight] = [factorGradients(context, uNames, cNames), accumulator('weight')];
      if (!ofFactors && !gradWeight) return { z: gradOut };
      const [u, c] = [uNames, cNames].map((names) => names.map((name) => saved[name]!)) as [Tensor[], Tensor[]];
      // The gradient of h is f32: beside bf16, one half of the images at a time takes no more than the gradient of z.
      inSteps(
        gradOut.shape.length > 2 ? gradOut.shape[0]! : 1,
        (_count, of) => {
          const { gradH } = kernels.sideInjectLowRankBackward(
            { gradOut: of(gradOut), u: u.map(of), c, weight: saved.weight, gradWeight, ...options },
            { wanted: { gradH: ofFactors !== undefined }, kind: 'gradients' },
          );
          if (!ofFactors) return;
          const { gradU, gradC } = ofFactors;
          kernels.lowRankCombineBackward({ gradH, u: u.map(of), c, gradU: gradU?.map(of), gradC });
          gradH.dispose();
        },
        { steps: 2 },
      );
      return { z: gradOut };
    },
  });
}
