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

const rank = 2;
const step = ({ tensor, batch, tokens, width }: BenchShape) => ({
  u: tensor([batch, tokens, rank], 'f32'),
  c: tensor([rank, width], 'f32'),
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
    kernel: 'sideStepForward',
    label: 'DTL',
    direction: 'forward',
    args: (shape) => ({ ...forward(shape), ...step(shape) }),
  },
  {
    kernel: 'sideStepForward',
    label: 'DTL+, k = 3',
    direction: 'forward',
    args: (shape) => ({ ...forward(shape), ...step(shape), ...plus(shape) }),
  },
  {
    kernel: 'sideStepBackward',
    label: 'DTL',
    direction: 'backward',
    args: (shape) => ({ ...backward(shape), ...step(shape) }),
  },
  {
    kernel: 'sideStepBackward',
    label: 'DTL+, k = 3, all gradients',
    direction: 'backward',
    args: (shape) => ({
      ...backward(shape),
      ...step(shape),
      ...plus(shape),
      gradWeight: shape.tensor([shape.width, 1, 3, 3], 'f32'),
    }),
  },
];
