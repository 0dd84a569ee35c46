import { needs, record } from '../autograd/tape';
import { kernels } from '../kernels';
import type { Tensor } from '../tensor';

export interface AttentionOptions {
  /** Heads H; the channels of qkv fall into 3 H parts of E numbers. */
  heads: number;
  /** What scores are multiplied with. Default 1/√E. */
  scale?: number;
  /**
   * `tiled` (default) works tile by tile and never writes an N×N matrix. `batched`, on CUDA devices alone, is products of whole heads by cuBLASLt with their
   * N×N matrices in scratch memory of at most 64 MiB, or of one head where that is more. Heads of more than 128 numbers take it on CUDA whatever is asked for.
   */
  algorithm?: 'tiled' | 'batched';
}

/**
 * Multi-head attention without mask: `out = softmax(scale · q kᵀ) v` for each image and head.
 * @param qkv - [B, N, 3·H·E], f32 or bf16: all of q, then all of k, then all of v, each head after head
 * @returns [B, N, H·E], heads side by side, dtype of qkv; everything in between is f32
 * Keeps for backward: qkv, and B·H·N f32 numbers. Not the result, and no N×N matrix.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError: among others, `batched` on the CPU
 * @see FlashAttention, arXiv 2205.14135
 * @example const out = ops.attention(qkv, { heads: 12 });
 */
export function attention(qkv: Tensor, options: AttentionOptions): Tensor {
  const inputs = { qkv };
  const { out, lse } = kernels.attentionForward({ qkv, ...options }, { save: needs(inputs) !== null });
  return record('attention', inputs, out, {
    saved: { qkv },
    state: { lse },
    backward: ({ gradOut, saved }) => {
      const { gradQkv } = kernels.attentionBackward(
        { gradOut, ...(saved as { qkv: Tensor; lse: Tensor }), ...options },
        { kind: 'gradients' },
      );
      return { qkv: gradQkv };
    },
  });
}
