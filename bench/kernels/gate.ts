import type { KernelBench } from '../harness';

/** Side networks are narrower than the backbone. */
const reduction = 8;

export const gateBenches: KernelBench[] = [
  {
    kernel: 'gateForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      a: tensor([batch, tokens, width / reduction]),
      b: tensor([batch, tokens, width / reduction]),
      alpha: tensor([1], 'f32'),
      temperature: 0.1,
    }),
  },
  {
    kernel: 'gateBackward',
    label: 'all gradients',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens, width / reduction]),
      a: tensor([batch, tokens, width / reduction]),
      b: tensor([batch, tokens, width / reduction]),
      alpha: tensor([1], 'f32'),
      gradAlpha: tensor([1], 'f32'),
      temperature: 0.1,
    }),
  },
];
