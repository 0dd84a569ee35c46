import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

export interface LowRankOptions {
  /** Start h anew: h = z a c, what it held is not read. Default false. */
  initialize?: boolean;
}

/**
 * One side layer of DTL, in place: `h ← h + (z a) c`. One pass over z and h.
 * @param h - [..., d], f32; changed
 * @param z - [..., d], f32 or bf16
 * @param a - [d, r], f32
 * @param c - [r, d], f32
 * @returns a handle on h after the change; use it instead of h from here on
 * Keeps for backward: z, and r f32 numbers a row. Backward walks h back where somebody needs what it held before; there is never
 * a copy of it.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError
 * @see DTL, arXiv 2312.07856, eq. 5
 * @example h = ops.lowRankAccumulate_(h, z, a, c);
 */
export function lowRankAccumulate_(
  h: Tensor,
  z: Tensor,
  a: Tensor,
  c: Tensor,
  { initialize = false }: LowRankOptions = {},
): Tensor {
  // An initialized h does not depend on what it held.
  const inputs = initialize ? { z, a, c } : { h, z, a, c };
  const needed = needs(inputs);
  const version = needed ? h.version : 0;
  const { u } = kernels.lowRankAccumulateForward({ h, z, a, c, initialize }, { save: needed !== null });
  const out = h.alias();
  return record('lowRankAccumulate_', inputs, out, {
    saved: { z, a, c },
    state: { u },
    ...(u && !initialize
      ? {
          undo: {
            buffer: out,
            version,
            keep: { u, c },
            run: (kept, buffer) => void kernels.lowRankUndo({ h: buffer, u: kept.u!, c: kept.c! }),
          },
        }
      : {}),
    backward: ({ gradOut, saved, wanted, pending, accumulator }) => {
      const { gradZ } = kernels.lowRankAccumulateBackward(
        {
          gradH: gradOut,
          ...(saved as { z: Tensor; a: Tensor; c: Tensor; u: Tensor }),
          residual: pending('z'),
          gradA: accumulator('a'),
          gradC: accumulator('c'),
        },
        { wanted: { gradZ: wanted.z ?? false }, kind: 'gradients' },
      );
      return { h: gradOut, z: gradZ };
    },
  });
}
