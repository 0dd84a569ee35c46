import { type BackwardContext, needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import { Tensor } from '../tensor';

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

/**
 * What a side layer of DTL reads: `u = z a`. For blocks whose h nobody reads yet; {@link lowRankCombine_} makes h of them.
 * @param z - [..., d], f32 or bf16
 * @param a - [d, r], f32
 * @returns [..., r], f32
 * Keeps for backward: z.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError
 * @see DTL, arXiv 2312.07856, eq. 5
 * @example const u = ops.lowRankProject(z, a);
 */
export function lowRankProject(z: Tensor, a: Tensor): Tensor {
  return recordProject({ z, a }, kernels.lowRankProjectForward({ z, a }).u);
}

/** @internal Enters `u = z a`, which another pass over z has made. */
export function recordProject(inputs: { z: Tensor; a: Tensor }, u: Tensor): Tensor {
  return record('lowRankProject', inputs, u, {
    saved: inputs,
    backward: ({ gradOut, saved, wanted, pending, accumulator }) => {
      const { gradZ } = kernels.lowRankProjectBackward(
        {
          gradU: gradOut,
          ...(saved as { z: Tensor; a: Tensor }),
          residual: pending('z'),
          gradA: accumulator('a'),
        },
        { wanted: { gradZ: wanted.z ?? false }, kind: 'gradients' },
      );
      return { z: gradZ };
    },
  });
}

/**
 * The side layers of several blocks at once, in place: `h = Σ_j u_j c_j`, in one pass over h, and one over its gradient in backward.
 * @param h - [..., d], f32; what it held is not read
 * @param us - for each block [..., r], f32, from {@link lowRankProject}
 * @param cs - for each block [r, d], f32
 * @returns a handle on h after the change; use it instead of h from here on
 * Keeps for backward: us.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @see DTL, arXiv 2312.07856, eq. 5
 * @example h = ops.lowRankCombine_(h, [u1, u2], [c1, c2]); // h = u1 c1 + u2 c2
 */
export function lowRankCombine_(h: Tensor, us: readonly Tensor[], cs: readonly Tensor[]): Tensor {
  kernels.lowRankCombineForward({ h, u: us, c: cs });
  const out = h.alias();
  const { inputs, uNames, cNames } = factorInputs(us, cs);
  return record('lowRankCombine_', inputs, out, {
    saved: inputs,
    backward: (context) => {
      const factors = factorGradients(context, uNames, cNames);
      if (factors) kernels.lowRankCombineBackward({ gradH: context.gradOut, ...factors });
      return {};
    },
  });
}

/** @internal The factors of a sum Σ_j u_j c_j as an op's inputs, by name. */
export function factorInputs(us: readonly Tensor[], cs: readonly Tensor[]) {
  const [uNames, cNames] = [us.map((_, j) => `u${j}`), cs.map((_, j) => `c${j}`)];
  const inputs: Record<string, Tensor> = {};
  for (const [j, u] of us.entries()) inputs[uNames[j]!] = u;
  for (const [j, c] of cs.entries()) inputs[cNames[j]!] = c;
  return { inputs, uNames, cNames };
}

/** @internal What the gradient of Σ_j u_j c_j is led on to by {@link kernels.lowRankCombineBackward}; undefined if no factor needs a gradient. */
export function factorGradients(
  { saved, wanted, accumulator }: Pick<BackwardContext, 'saved' | 'wanted' | 'accumulator'>,
  uNames: string[],
  cNames: string[],
): { u: Tensor[]; c: Tensor[]; gradU: Tensor[] | undefined; gradC: Tensor[] | undefined } | undefined {
  const [u, c] = [uNames, cNames].map((names) => names.map((name) => saved[name]!)) as [Tensor[], Tensor[]];
  // The kernel wants gradients of one kind for all blocks or for none: a few that nobody asked for are thrown away.
  const gradients = (names: string[]): Tensor[] | undefined => {
    if (!names.some((name) => wanted[name])) return undefined;
    return names.map(
      (name) => accumulator(name) ?? Tensor.zeros(saved[name]!.device, saved[name]!.shape, { kind: 'gradients' }),
    );
  };
  const [gradU, gradC] = [gradients(uNames), gradients(cNames)];
  return gradU || gradC ? { u, c, gradU, gradC } : undefined;
}
