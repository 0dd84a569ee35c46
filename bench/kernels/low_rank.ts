import type { KernelBench } from '../harness';

const rank = 2;
// DTL's frozen blocks up to the first inject, M = 7.
const perBlock = <T>(make: () => T): T[] => Array.from({ length: 7 }, make);

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
  {
    kernel: 'lowRankProjectForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      z: tensor([batch, tokens, width]),
      a: tensor([width, rank], 'f32'),
    }),
  },
  {
    kernel: 'lowRankProjectBackward',
    label: 'all gradients',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradU: tensor([batch, tokens, rank], 'f32'),
      z: tensor([batch, tokens, width]),
      a: tensor([width, rank], 'f32'),
      residual: tensor([batch, tokens, width]),
      gradA: tensor([width, rank], 'f32'),
    }),
  },
  {
    kernel: 'lowRankCombineForward',
    label: '7 blocks',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      h: tensor([batch, tokens, width], 'f32'),
      u: perBlock(() => tensor([batch, tokens, rank], 'f32')),
      c: perBlock(() => tensor([rank, width], 'f32')),
    }),
  },
  {
    kernel: 'lowRankCombineBackward',
    label: '7 blocks, all gradients',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradH: tensor([batch, tokens, width], 'f32'),
      u: perBlock(() => tensor([batch, tokens, rank], 'f32')),
      c: perBlock(() => tensor([rank, width], 'f32')),
      gradU: perBlock(() => tensor([batch, tokens, rank], 'f32')),
      gradC: perBlock(() => tensor([rank, width], 'f32')),
    }),
  },
];
