import type { KernelBench } from '../harness';

const rank = 2;
// DTL's frozen blocks up to the first inject, M = 7.

export const lowRankBenches: KernelBench[] = [
  {
    kernel: 'lowRankAccumulateForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      h: tensor([batch, tokens, width], 'f32'),
      z: tensor([batch, tokens, width]),
      a: tensor([width, rank], 'f32'),
      c: tensor([rank, width], 'f32'),
    }),
  },
  {
    kernel: 'lowRankUndo',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      h: tensor([batch, tokens, width], 'f32'),
      u: tensor([batch, tokens, rank], 'f32'),
      c: tensor([rank, width], 'f32'),
    }),
  },
  {
    kernel: 'lowRankAccumulateBackward',
    label: 'all gradients',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradH: tensor([batch, tokens, width], 'f32'),
      z: tensor([batch, tokens, width]),
      a: tensor([width, rank], 'f32'),
      c: tensor([rank, width], 'f32'),
      u: tensor([batch, tokens, rank], 'f32'),
      residual: tensor([batch, tokens, width]),
      gradA: tensor([width, rank], 'f32'),
      gradC: tensor([rank, width], 'f32'),
    }),
  },
];
