import type { KernelBench } from '../harness';

/** FacT-TK's of a block of twelve, the four matrices of fc1. */
const [rank, factors] = [32, 144];

export const factorBenches: KernelBench[] = [
  {
    kernel: 'factorContractForward',
    label: `rank ${rank}, fc1`,
    direction: 'forward',
    perBatch: false,
    args: ({ tensor }) => ({
      core: tensor([rank, rank, rank], 'f32'),
      factors: tensor([rank, factors], 'f32'),
      column: 4,
      count: 4,
      layout: 'interleaved_rows',
    }),
  },
  {
    kernel: 'factorContractBackward',
    label: `rank ${rank}, fc1`,
    direction: 'backward',
    perBatch: false,
    args: ({ tensor }) => ({
      gradOut: tensor([4 * rank, rank], 'f32'),
      core: tensor([rank, rank, rank], 'f32'),
      factors: tensor([rank, factors], 'f32'),
      gradCore: tensor([rank, rank, rank], 'f32'),
      gradFactors: tensor([rank, factors], 'f32'),
      column: 4,
      count: 4,
      layout: 'interleaved_rows',
    }),
  },
];
