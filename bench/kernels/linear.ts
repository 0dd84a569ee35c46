import { kernels } from '../../lib/kernels';
import { type DType, Tensor } from '../../lib/tensor';
import { type BenchShape, type KernelBench, weightDtype } from '../harness';

/** The four linear layers of a block: rows of the weight, columns, and what stands behind the product. */
const layers: { name: string; size(shape: BenchShape): [O: number, I: number]; gelu?: boolean; residual?: boolean }[] =
  [
    { name: 'qkv', size: ({ width }) => [3 * width, width] },
    { name: 'proj + residual', size: ({ width }) => [width, width], residual: true },
    { name: 'fc1 + GELU', size: ({ width, hidden }) => [hidden, width], gelu: true },
    { name: 'fc2 + residual', size: ({ width, hidden }) => [width, hidden], residual: true },
  ];

/** Of LoRA's adapters. */
const rank = 8;

export function pack(weight: Tensor, layout: 'packed' | 'packed_transposed', dtype: DType = weight.dtype): Tensor {
  const out = Tensor.empty(weight.device, weight.shape, { dtype, layout });
  kernels.linearPack({ weight, out });
  return out;
}

export const linearBenches: KernelBench[] = [
  ...layers.flatMap(({ name, size, gelu, residual }) =>
    // Inference saves nothing; training saves what GELU was given.
    (gelu ? [false, true] : [false]).map(
      (save): KernelBench => ({
        kernel: 'linearForward',
        label: save ? `${name}, saved for backward` : name,
        direction: 'forward',
        ...(save ? {} : { int8: true }),
        flags: { save },
        args: (shape) => {
          const { tensor, batch, tokens } = shape;
          const [O, I] = size(shape);
          return {
            x: tensor([batch, tokens, I]),
            weight: pack(tensor([O, I]), 'packed', weightDtype(shape.dtype)),
            bias: tensor([O], 'f32'),
            residual: residual ? tensor([batch, tokens, O]) : undefined,
            activation: gelu ? 'gelu' : 'none',
          };
        },
      }),
    ),
  ),
  ...layers.map(
    ({ name, size, gelu }): KernelBench => ({
      kernel: 'linearBackward',
      label: `${name}, frozen`,
      direction: 'backward',
      args: (shape) => {
        const { tensor, batch, tokens } = shape;
        const [O, I] = size(shape);
        return {
          gradOut: tensor([batch, tokens, O]),
          weight: pack(tensor([O, I]), 'packed_transposed'),
          preActivation: gelu ? tensor([batch, tokens, O]) : undefined,
          activation: gelu ? 'gelu' : 'none',
        };
      },
    }),
  ),
  {
    kernel: 'linearBackward',
    label: 'proj, all gradients',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens, width]),
      x: tensor([batch, tokens, width]),
      weight: tensor([width, width], 'f32'),
      gradWeight: tensor([width, width], 'f32'),
      gradBias: tensor([width], 'f32'),
    }),
  },
  {
    kernel: 'linearAddForward',
    label: `rank ${rank} into v of qkv`,
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      y: tensor([batch, tokens, 3 * width]),
      x: tensor([batch, tokens, rank]),
      weight: tensor([width, rank], 'f32'),
      column: 2 * width,
    }),
  },
  {
    kernel: 'linearAddBackward',
    label: `rank ${rank} into v of qkv`,
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens, 3 * width]),
      x: tensor([batch, tokens, rank]),
      weight: tensor([width, rank], 'f32'),
      gradWeight: tensor([width, rank], 'f32'),
      column: 2 * width,
    }),
  },
  {
    kernel: 'linearPack',
    direction: 'forward',
    perBatch: false,
    args: ({ tensor, width }) => {
      const weight = tensor([width, width]);
      return { weight, out: pack(weight, 'packed') };
    },
  },
];
