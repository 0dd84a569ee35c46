import type { KernelBench } from '../harness';

/** A supernet's factor and the part of it that is at work. */
const [most, rank] = [100, 10];

export const sliceBenches: KernelBench[] = [
  {
    kernel: 'sliceForward',
    label: 'first columns',
    direction: 'forward',
    perBatch: false,
    args: ({ tensor, width }) => ({
      x: tensor([3 * width, most], 'f32'),
      rows: [0, 3 * width],
      columns: [0, rank],
    }),
  },
  {
    kernel: 'sliceBackward',
    label: 'first columns',
    direction: 'backward',
    perBatch: false,
    args: ({ tensor, width }) => ({
      gradOut: tensor([3 * width, rank], 'f32'),
      gradX: tensor([3 * width, most], 'f32'),
      rows: [0, 3 * width],
      columns: [0, rank],
    }),
  },
];
