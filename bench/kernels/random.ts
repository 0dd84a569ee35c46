import type { KernelBench } from '../harness';

export const randomBenches: KernelBench[] = [
  {
    kernel: 'randomUniform',
    direction: 'update',
    perBatch: false,
    args: ({ tensor, hidden, width }) => ({ out: tensor([hidden, width]), low: -1, seed: 1 }),
  },
  {
    kernel: 'randomNormal',
    label: 'cut at 2 deviations',
    direction: 'update',
    perBatch: false,
    args: ({ tensor, hidden, width }) => ({ out: tensor([hidden, width]), cut: 2, seed: 1 }),
  },
  {
    kernel: 'randomKeep',
    direction: 'update',
    args: ({ tensor, batch }) => ({ out: tensor([batch], 'f32'), keep: 0.9, seed: 1 }),
  },
];
