import type { BenchShape, KernelBench } from '../harness';

const plus = ({ tensor, width, grid }: BenchShape) => ({
  weight: tensor([width, 1, 3, 3], 'f32'),
  grid,
  prefixTokens: 1,
});

function forward(shape: BenchShape) {
  const { tensor, batch, tokens, width } = shape;
  return { z: tensor([batch, tokens, width]), h: tensor([batch, tokens, width], 'f32') };
}

function backward(shape: BenchShape) {
  const { tensor, batch, tokens, width } = shape;
  return {
    gradOut: tensor([batch, tokens, width]),
    h: tensor([batch, tokens, width], 'f32'),
    residual: tensor([batch, tokens, width], 'f32'),
  };
}

// The last of twelve blocks: what all side layers have read makes up h.
const factors = ({ tensor, batch, tokens, width }: BenchShape) => ({
  u: Array.from({ length: 12 }, () => tensor([batch, tokens, 2], 'f32')),
  c: Array.from({ length: 12 }, () => tensor([2, width], 'f32')),
});

export const sideInjectBenches: KernelBench[] = [
  { kernel: 'sideInjectForward', label: 'DTL', direction: 'forward', args: forward },
  {
    kernel: 'sideInjectForward',
    label: 'DTL+, k = 3',
    direction: 'forward',
    args: (shape) => ({ ...forward(shape), ...plus(shape) }),
  },
  { kernel: 'sideInjectBackward', label: 'DTL', direction: 'backward', args: backward },
  {
    kernel: 'sideInjectBackward',
    label: 'DTL+, k = 3, all gradients',
    direction: 'backward',
    args: (shape) => ({
      ...backward(shape),
      ...plus(shape),
      gradWeight: shape.tensor([shape.width, 1, 3, 3], 'f32'),
    }),
  },
  {
    kernel: 'sideInjectLowRankForward',
    label: 'DTL, 12 blocks',
    direction: 'forward',
    args: (shape) => ({ z: forward(shape).z, ...factors(shape) }),
  },
  {
    kernel: 'sideInjectLowRankForward',
    label: 'DTL+, 12 blocks, k = 3',
    direction: 'forward',
    args: (shape) => ({ z: forward(shape).z, ...factors(shape), ...plus(shape) }),
  },
  {
    kernel: 'sideInjectLowRankBackward',
    label: 'DTL, 12 blocks',
    direction: 'backward',
    args: (shape) => ({ gradOut: backward(shape).gradOut, ...factors(shape) }),
  },
  {
    kernel: 'sideInjectLowRankBackward',
    label: 'DTL+, 12 blocks, k = 3, all gradients',
    direction: 'backward',
    args: (shape) => ({
      gradOut: backward(shape).gradOut,
      ...factors(shape),
      ...plus(shape),
      gradWeight: shape.tensor([shape.width, 1, 3, 3], 'f32'),
    }),
  },
];
