import type { KernelBench } from '../harness';

export const layerNormBenches: KernelBench[] = [
  {
    kernel: 'layerNormForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      x: tensor([batch, tokens, width]),
      weight: tensor([width], 'f32'),
      bias: tensor([width], 'f32'),
    }),
  },
  {
    kernel: 'layerNormProjectForward',
    label: 'rank 2',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      x: tensor([batch, tokens, width]),
      weight: tensor([width], 'f32'),
      bias: tensor([width], 'f32'),
      a: tensor([width, 2], 'f32'),
    }),
  },
  {
    kernel: 'layerNormBackward',
    label: 'input gradient + residual',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens, width]),
      x: tensor([batch, tokens, width]),
      weight: tensor([width], 'f32'),
      mean: tensor([batch, tokens], 'f32'),
      rstd: tensor([batch, tokens], 'f32'),
      residual: tensor([batch, tokens, width]),
    }),
  },
  {
    kernel: 'layerNormBackward',
    label: 'all gradients',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens, width]),
      x: tensor([batch, tokens, width]),
      weight: tensor([width], 'f32'),
      mean: tensor([batch, tokens], 'f32'),
      rstd: tensor([batch, tokens], 'f32'),
      gradWeight: tensor([width], 'f32'),
      gradBias: tensor([width], 'f32'),
    }),
  },
];
