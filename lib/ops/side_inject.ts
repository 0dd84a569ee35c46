import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

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
