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

export const attentionBenches: KernelBench[] = [...tiled, ...batched];
