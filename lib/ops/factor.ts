import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import { scope } from '../scope';
import type { Tensor } from '../tensor';

export interface FactorContractOptions {
  /** The first column of factors. Default 0. */
  column?: number;
  /** How many columns, and matrices S_t. */
  count: number;
  /**
   * How the matrices stand in the weight, n = count. 'rows': `[n r, r]`, row t r + b, x S_0, x S_1, … side by side. 'interleaved_rows': `[n r, r]`, row b n + t.
   * 'interleaved_columns': `[r, n r]`, column b n + t. Default 'rows'.
   */
  layout?: 'rows' | 'interleaved_rows' | 'interleaved_columns';
}

/**
 * FacT's small matrices `S_t[a, b] = Σ_c core[a, b, c] factors[c, column + t]`, t < count, together as the weight of one linear layer; in each layout S_t[a, b]
 * is at a along the side of length r.
 * @param core - [r, r, r], f32
 * @param factors - [r, T], f32
 * @returns [count r, r] or, for 'interleaved_columns', [r, count r], f32
 * Keeps for backward: core if factors need a gradient, factors if core does.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError; ArgumentError for columns that factors do not have
 * @see Jie and Deng (FacT-TK), arXiv 2212.03145
 * @example const q_k_v = ops.linear(u, ops.factorContract(core, factors, { column: 12 * block, count: 3 }));
 */
export function factorContract(
  core: Tensor,
  factors: Tensor,
  { column = 0, count, layout = 'rows' }: FactorContractOptions,
): Tensor {
  const inputs = { core, factors };
  const needed = needs(inputs);
  const options = { column, count, layout };
  // The kernel's shape is [count r, r].
  const weight = scope(() => {
    const { out } = kernels.factorContractForward({ ...inputs, ...options });
    return layout === 'interleaved_columns' ? out.reshape([...out.shape].reverse()) : out;
  });
  return record('factorContract', inputs, weight, {
    saved: { core: needed?.factors ? core : undefined, factors: needed?.core ? factors : undefined },
    backward: ({ gradOut, saved, accumulator }) => {
      const flat = layout === 'interleaved_columns' ? gradOut.reshape([...gradOut.shape].reverse()) : gradOut;
      kernels.factorContractBackward({
        ...options,
        gradOut: flat,
        core: saved.core,
        factors: saved.factors,
        gradCore: accumulator('core'),
        gradFactors: accumulator('factors'),
      });
      return {};
    },
  });
}
