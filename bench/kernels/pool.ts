import type { KernelBench } from '../harness';

export const poolBenches: KernelBench[] = [
  {
    kernel: 'poolForward',
    label: 'mean of patch tokens',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      x: tensor([batch, tokens, width]),
      out: tensor([batch, width], 'f32'),
      mode: 'mean',
      prefixTokens: 1,
    }),
  },
  {
    kernel: 'poolBackward',
    label: 'mean of patch tokens',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, width], 'f32'),
      gradX: tensor([batch, tokens, width]),
      mode: 'mean',
      prefixTokens: 1,
    }),
  },
];
