import type { KernelBench } from '../harness';

export const reluBenches: KernelBench[] = [
  {
    kernel: 'reluForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, hidden }) => ({ x: tensor([batch, tokens, hidden]) }),
  },
  {
    kernel: 'reluBackward',
    direction: 'backward',
    args: ({ tensor, batch, tokens, hidden }) => ({
      gradOut: tensor([batch, tokens, hidden]),
      out: tensor([batch, tokens, hidden]),
    }),
  },
];
