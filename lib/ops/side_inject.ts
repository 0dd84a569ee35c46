import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';
import { combineBackward } from './low_rank';

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
 * What DTL's side network does at a block, in one pass over h and z: it takes up what the block's side layer read, in place, and injects:
 * `h ← h + u c`, `out = z + g(θ(h))`.
 * @param z - [..., d], f32 or bf16; with `weight` [B, prefixTokens + rows·columns, d]
 * @param h - shape of z, f32; changed
 * @param u - [..., r], f32: `z a` of {@link layerNormProject} or {@link lowRankProject}
 * @param c - [r, d], f32
 * @returns out: shape and dtype of z; h: a handle on h after the change; use it instead of h from here on
 * Keeps for backward: u, and h itself, no copy: backward walks h back in the pass in which it reads it. That pass comes when all is done that was recorded
 * after u, so that the block between u and this call has let go of what it kept before the gradient of h is formed.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see DTL, arXiv 2312.07856, eq. 5 and 7–9
 * @example const { out, h: next } = ops.sideStep_(z, h, u, c, { beta: 100 });
 */
export function sideStep_(
  z: Tensor,
  h: Tensor,
  u: Tensor,
  c: Tensor,
  { weight, ...options }: SideInjectOptions = {},
): { out: Tensor; h: Tensor } {
  const inputs = { z, h, u, c, weight };
  const { version } = h;
  const { out } = kernels.sideStepForward({ ...inputs, ...options });
  const [after, read] = [h.alias(), out.alias()]; // read: out, as far as it comes of h
  record('sideStep_', { h, u, c, weight }, [read, after], {
    saved: { h: after, u, c, weight },
    undo: {
      buffer: after,
      version,
      keep: { u, c },
      run: (kept, buffer) => void kernels.lowRankUndo({ h: buffer, u: kept.u!, c: kept.c! }),
    },
    turn: u,
    backward: (context) => {
      const { saved, accumulator, undone } = context;
      const [gradOut, later] = context.grads;
      let gradH = later!;
      // Where nobody reads `out`, there is h's gradient and nothing to add to it.
      if (gradOut) {
        const side = saved as { h: Tensor; u: Tensor; c: Tensor; weight?: Tensor };
        const args = { gradOut, ...side, residual: later, gradWeight: accumulator('weight'), ...options };
        gradH = kernels.sideStepBackward(args, { kind: 'gradients' }).gradH;
        undone();
      }
      combineBackward(gradH, context, ['u'], ['c']);
      return { h: gradH };
    },
  });
  record('sideInject', { z, read }, out, { backward: ({ gradOut }) => ({ z: gradOut, read: gradOut }) });
  read.dispose();
  return { out, h: after };
}
