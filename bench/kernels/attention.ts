import type { KernelBench } from '../harness';

export const attentionBenches: KernelBench[] = [
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
