import type { KernelBench } from '../harness';

export const scaleShiftBenches: KernelBench[] = [
  {
    kernel: 'scaleShiftForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      x: tensor([batch, tokens, width]),
      scale: tensor([width], 'f32'),
      shift: tensor([width], 'f32'),
    }),
  },
  {
    kernel: 'scaleShiftBackward',
    label: 'all gradients',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens, width]),
      x: tensor([batch, tokens, width]),
      scale: tensor([width], 'f32'),
      gradScale: tensor([width], 'f32'),
      gradShift: tensor([width], 'f32'),
    }),
  },
];
