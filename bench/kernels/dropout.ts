import type { KernelBench } from '../harness';

export const dropoutBenches: KernelBench[] = [
  {
    kernel: 'dropout',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      x: tensor([batch, tokens, width]),
      step: tensor([1], 'i32'),
      rate: 0.1,
      seed: 1,
      stream: 0,
    }),
  },
];
