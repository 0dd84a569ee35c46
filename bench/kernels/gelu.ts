import type { KernelBench } from '../harness';

export const geluBenches: KernelBench[] = [
  {
    kernel: 'geluForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, hidden }) => ({ x: tensor([batch, tokens, hidden]) }),
  },
  {
    kernel: 'geluBackward',
    direction: 'backward',
    args: ({ tensor, batch, tokens, hidden }) => ({
      gradOut: tensor([batch, tokens, hidden]),
      x: tensor([batch, tokens, hidden]),
    }),
  },
];
