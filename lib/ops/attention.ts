import { needs, record } from '../autograd/tape';
import { ArgumentError } from '../errors';
import { kernels } from '../kernels';
import { scope } from '../scope';
import { inSteps } from '../steps';
import { Tensor } from '../tensor';
import { linear, type PackedWeight } from './linear';

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

/**
 * {@link attention} behind its frozen linear layer: `attention(x Wᵀ + b)`. What both give one after the other, without the gradient of q, k and v ever being
 * in memory as a whole: backward goes through the images in steps.
 * @param x - [B, N, I], f32 or bf16
 * @param weight - [3·H·E, I], packed in the dtype of x, or in i8 (see {@link linear})
 * @param bias - [3·H·E], f32
 * @returns [B, N, H·E], dtype of x
 * Keeps for backward: q, k and v, and B·H·N f32 numbers.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError
 * @example const out = ops.projectedAttention(ops.layerNorm(z, gamma, beta), weight, bias, { heads: 12 });
 */
export function projectedAttention(
  x: Tensor,
  weight: PackedWeight,
  bias: Tensor | undefined,
  options: AttentionOptions,
): Tensor {
  return scope(() => {
    if (needs({ bias })) return attention(linear(x, weight, bias), options);
    const inputs = { x };
    const needed = needs(inputs);
    const frozen = needed ? weight.differentiable(x.dtype) : weight;
    const { out: qkv } = kernels.linearForward({ x, weight: frozen.forward, bias });
    const { out, lse } = kernels.attentionForward({ qkv, ...options }, { save: needed?.x ?? false });
    return record('projectedAttention', inputs, out, {
      state: { qkv, lse },
      backward: ({ gradOut, saved }) => {
        const { shape, dtype, device } = gradOut;
        const transposed = frozen.forBackward();
        const gradX = Tensor.empty(device, [...shape.slice(0, -1), weight.shape[1]!], { dtype, kind: 'gradients' });
        inSteps(shape[0]!, (_count, of) => {
          const { gradQkv } = kernels.attentionBackward(
            { gradOut: of(gradOut), qkv: of(saved.qkv!), lse: of(saved.lse!), ...options },
            { kind: 'gradients' },
          );
          kernels.linearBackward({ gradOut: gradQkv, weight: transposed, gradX: of(gradX) });
          gradQkv.dispose();
        });
        return { x: gradX };
      },
    });
  });
}

export interface ClassAttentionOptions {
  /** Heads H. */
  heads: number;
  /** What scores are multiplied with. Default 1/√E. */
  scale?: number;
}

/**
 * What {@link attention} behind its linear layer, `attention(x Wᵀ + b)`, gives for the first token of each image alone: class attention. Neither keys nor values
 * are made, only the query; scores are products of x itself. For inference: it has no gradient.
 * @param x - [B, N, I], f32 or bf16
 * @param weight - [3·H·E, I], plain, f32 or bf16
 * @param bias - [3·H·E], f32
 * @returns [B, H·E], dtype of x; everything in between is f32
 * @throws ShapeError, DtypeError, DisposedError, DeviceError, ArgumentError: among others, where a gradient is wanted of an argument
 * @see CaiT, arXiv 2103.17239
 * @example const row = ops.classAttention(ops.layerNorm(z, gamma, beta), weight, bias, { heads: 12 });
 */
export function classAttention(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | undefined,
  options: ClassAttentionOptions,
): Tensor {
  const wanted = Object.keys(needs({ x, weight, bias }) ?? {})[0];
  if (wanted !== undefined) {
    throw new ArgumentError(`classAttention: a gradient of '${wanted}' is wanted, expected none: use attention`, {
      kernel: 'classAttention',
      argument: wanted,
      got: 'a tensor that a gradient is wanted of',
      expected: 'one without',
    });
  }
  return kernels.classAttentionForward({ x, weight, bias, ...options }).out;
}
