import type { Tensor } from '../tensor';
import type { Vit } from './vit';

/** What a hook knows of the forward pass it is in. */
export interface ForwardContext {
  readonly backbone: Vit;
  /** Images in the batch. */
  readonly batch: number;
  /** Whether this pass is one of training: dropout and drop path are on. */
  readonly training: boolean;
  /** The method's parameters, by the names under which it declared them. */
  readonly parameters: Readonly<Record<string, Tensor>>;
  /** Tensors that a method carries from hook to hook, for example what DTL's side layers read. Starts empty in each pass. */
  readonly state: Record<string, Tensor>;
  /** An f32 tensor that lives as long as the model, one for each name and shape; its numbers are whatever the last pass left. */
  buffer(name: string, shape: readonly number[]): Tensor;
  /**
   * `x` with each number dropped at `rate` and the others divided by 1 − rate in training; `x` itself in inference and at rate 0.
   * @param place - tells the model's dropouts apart: each draws numbers of its own
   */
  dropout(x: Tensor, rate: number, place: string): Tensor;
  /**
   * A part of a hook that is large enough to count as a block: its activations are kept for backward, or its inputs alone and it runs again, as the
   * model's `retain` says. `body` computes from `inputs` and parameters, and the same in both runs.
   */
  block(body: (...inputs: Tensor[]) => Tensor, inputs: Tensor[]): Tensor;
  /** Drop path's mask [B] for a branch of block i (1-based): 0 or 1/keep per image. Undefined when nothing is dropped. */
  dropPath(i: number, which: 'attn' | 'mlp'): Tensor | undefined;
}

/**
 * The named places of a vision transformer where a method can act. Blocks are counted from 1. A hook returns the tensor it was given or a new one; the model
 * disposes what is no longer used, so a hook never disposes its arguments. Everything is recorded: gradients come by themselves.
 *
 * Where a hook is absent the model uses its fused kernels; `linear`, `branch` and `dropped` take an epilogue apart.
 */
export interface Hooks {
  /** After the patch convolution, before CLS and positions: [B, n, d]. */
  patches?(x: Tensor, context: ForwardContext): Tensor;
  /** The tokens that enter block 1: [B, N, d]. Prompts go in here. */
  tokens?(z: Tensor, context: ForwardContext): Tensor;
  /** The tokens that enter block i. */
  beforeBlock?(i: number, z: Tensor, context: ForwardContext): Tensor;
  /**
   * A matrix a [d, r] that the tokens z which enter block i are multiplied with in the pass of its first norm: what a side layer reads, without a pass of
   * its own. The product z a, [B, N, r] in f32, is `state.u<i>` from the end of the block on.
   */
  reads?(i: number, context: ForwardContext): Tensor | undefined;
  /** After a LayerNorm: `name` is 'blocks.0.norm1', …, or 'norm'. */
  norm?(name: string, y: Tensor, context: ForwardContext): Tensor;
  /** After a linear layer, before activation and residual: y = x Wᵀ + b; `name` is 'blocks.0.attn.qkv', …. */
  linear?(name: string, x: Tensor, y: Tensor, context: ForwardContext): Tensor;
  /** Which linear layers `linear` is for; the others keep their fused kernels. Default: all. */
  touches?(name: string): boolean;
  /** A branch's result before it is dropped and added to the stream that it was computed from. */
  branch?(i: number, which: 'attn' | 'mlp', y: Tensor, stream: Tensor, context: ForwardContext): Tensor;
  /** A branch's result, dropped or not, before it is added. */
  dropped?(i: number, which: 'attn' | 'mlp', y: Tensor, context: ForwardContext): Tensor;
  /** The stream that a branch's result, dropped or not, will be added to. */
  stream?(i: number, which: 'attn' | 'mlp', stream: Tensor, context: ForwardContext): Tensor;
  /** The tokens that leave block i; of an `additive` method, of the last block, those that its MLP has not been added to. */
  afterBlock?(i: number, z: Tensor, context: ForwardContext): Tensor;
  /** The tokens after the last block, before pooling; a side network with a read-out of its own answers here. */
  features?(z: Tensor, context: ForwardContext): Tensor;
}
