import type { KernelBench } from '../harness';

export const depthwiseConvBenches: KernelBench[] = [
  {
    kernel: 'depthwiseConvForward',
    label: 'k = 3',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width, grid }) => ({
      x: tensor([batch, tokens, width]),
      weight: tensor([width, 1, 3, 3], 'f32'),
      grid,
      prefixTokens: 1,
    }),
  },
  {
    kernel: 'depthwiseConvBackward',
    label: 'k = 3, all gradients',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width, grid }) => ({
      gradOut: tensor([batch, tokens, width]),
      x: tensor([batch, tokens, width]),
      weight: tensor([width, 1, 3, 3], 'f32'),
      gradWeight: tensor([width, 1, 3, 3], 'f32'),
      grid,
      prefixTokens: 1,
    }),
  },
];
