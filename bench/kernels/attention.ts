import type { KernelBench } from '../harness';

const tiled: KernelBench[] = [
  {
    kernel: 'attentionForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width, heads }) => ({ qkv: tensor([batch, tokens, 3 * width]), heads }),
  },
  {
    kernel: 'attentionBackward',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width, heads }) => ({
      gradOut: tensor([batch, tokens, width]),
      qkv: tensor([batch, tokens, 3 * width]),
      lse: tensor([batch, heads, tokens], 'f32'),
      heads,
    }),
  },
];

/** The second algorithm of CUDA devices. */
const batched = tiled.map(
  (bench): KernelBench => ({
    ...bench,
    label: 'batched',
    backend: 'cuda',
    args: (shape) => ({ ...bench.args(shape), algorithm: 'batched' }),
  }),
);

/** Attention and the layer in front of it, for CLS alone. */
const ofClass: KernelBench = {
  kernel: 'classAttentionForward',
  direction: 'forward',
  args: ({ tensor, batch, tokens, width, heads }) => ({
    x: tensor([batch, tokens, width]),
    weight: tensor([3 * width, width]),
    bias: tensor([3 * width], 'f32'),
    heads,
  }),
};

export const attentionBenches: KernelBench[] = [...tiled, ...batched, ofClass];
