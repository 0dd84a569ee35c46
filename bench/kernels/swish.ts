import type { KernelBench } from '../harness';

export const swishBenches: KernelBench[] = [
  {
    kernel: 'swishForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({ x: tensor([batch, tokens, width]), beta: 100 }),
  },
  {
    kernel: 'swishBackward',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens, width]),
      x: tensor([batch, tokens, width]),
      beta: 100,
    }),
  },
];
