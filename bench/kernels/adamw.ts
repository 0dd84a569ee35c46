import type { BenchShape, KernelBench } from '../harness';

// A model trained in full has few large tensors, a side network many small ones.
function tensors({ tensor }: BenchShape, shapes: number[][]): Record<string, unknown> {
  const list = () => shapes.map((shape) => tensor(shape, 'f32'));
  return { parameters: list(), firstMoments: list(), secondMoments: list(), gradients: list(), lr: 1e-3, step: 10 };
}

export const adamwBenches: KernelBench[] = [
  {
    kernel: 'adamwUpdate',
    label: 'one block',
    direction: 'update',
    perBatch: false,
    args: (shape) => {
      const { width, hidden } = shape;
      return tensors(shape, [
        [3 * width, width],
        [width, width],
        [hidden, width],
        [width, hidden],
      ]);
    },
  },
  {
    kernel: 'adamwUpdate',
    label: '12 side layers and a head',
    direction: 'update',
    perBatch: false,
    args: (shape) => {
      const { width } = shape;
      const side = Array.from({ length: 12 }, () => [
        [width, 2],
        [2, width],
      ]);
      return tensors(shape, [...side.flat(), [100, width], [100]]);
    },
  },
];
