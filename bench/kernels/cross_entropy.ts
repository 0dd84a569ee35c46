import type { KernelBench } from '../harness';

const classes = 1000;

export const crossEntropyBenches: KernelBench[] = [
  {
    kernel: 'softmaxCrossEntropyForward',
    label: `${classes} classes`,
    direction: 'forward',
    args: ({ tensor, batch }) => ({
      logits: tensor([batch, classes], 'f32'),
      labels: tensor([batch], 'i32'),
      labelSmoothing: 0.1,
    }),
    flags: { save: true },
  },
  {
    kernel: 'softmaxCrossEntropyBackward',
    label: `${classes} classes`,
    direction: 'backward',
    args: ({ tensor, batch }) => ({
      gradLoss: tensor([1], 'f32'),
      logits: tensor([batch, classes], 'f32'),
      labels: tensor([batch], 'i32'),
      lse: tensor([batch], 'f32'),
      labelSmoothing: 0.1,
    }),
  },
];
