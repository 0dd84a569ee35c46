import type { BenchShape, KernelBench } from '../harness';

const channels = 3;
const side = 16;

function images({ tensor, batch, grid }: BenchShape) {
  return tensor([batch, channels, grid[0] * side, grid[1] * side], 'f32');
}

export const patchEmbedBenches: KernelBench[] = [
  {
    kernel: 'patchEmbedForward',
    direction: 'forward',
    args: (shape) => ({
      images: images(shape),
      weight: shape.tensor([shape.width, channels, side, side], 'f32'),
      bias: shape.tensor([shape.width], 'f32'),
      out: shape.tensor([shape.batch, shape.grid[0] * shape.grid[1], shape.width]),
    }),
  },
  {
    kernel: 'patchEmbedBackward',
    label: 'all gradients',
    direction: 'backward',
    args: (shape) => ({
      images: images(shape),
      weight: shape.tensor([shape.width, channels, side, side], 'f32'),
      gradOut: shape.tensor([shape.batch, shape.grid[0] * shape.grid[1], shape.width]),
      gradWeight: shape.tensor([shape.width, channels, side, side], 'f32'),
      gradBias: shape.tensor([shape.width], 'f32'),
    }),
  },
  {
    kernel: 'embedTokensForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      patches: tensor([batch, tokens - 1, width]),
      cls: tensor([1, 1, width], 'f32'),
      pos: tensor([1, tokens, width], 'f32'),
      prefixTokens: 1,
    }),
  },
  {
    kernel: 'embedTokensBackward',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens, width]),
      patches: tokens - 1,
      prefixTokens: 1,
      gradCls: tensor([1, 1, width], 'f32'),
      gradPos: tensor([1, tokens, width], 'f32'),
    }),
  },
];
