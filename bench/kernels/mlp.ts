import { type BenchShape, type KernelBench, weightDtype } from '../harness';
import { pack } from './linear';

const forward = (save: boolean): KernelBench => ({
  kernel: 'mlpForward',
  ...(save ? { label: 'saved for backward' } : { int8: true }),
  direction: 'forward',
  flags: { save },
  args: ({ tensor, dtype, batch, tokens, width, hidden }: BenchShape) => ({
    x: tensor([batch, tokens, width]),
    weight1: pack(tensor([hidden, width]), 'packed', weightDtype(dtype)),
    bias1: tensor([hidden], 'f32'),
    weight2: pack(tensor([width, hidden]), 'packed', weightDtype(dtype)),
    bias2: tensor([width], 'f32'),
    residual: tensor([batch, tokens, width]),
  }),
});

const forwardOfMean = (save: boolean): KernelBench => ({
  kernel: 'mlpMeanForward',
  ...(save ? { label: 'saved for backward' } : { int8: true }),
  direction: 'forward',
  flags: { save },
  args: ({ tensor, dtype, batch, tokens, width, hidden }: BenchShape) => ({
    x: tensor([batch, tokens, width]),
    weight1: pack(tensor([hidden, width]), 'packed', weightDtype(dtype)),
    bias1: tensor([hidden], 'f32'),
    weight2: pack(tensor([width, hidden]), 'packed', weightDtype(dtype)),
    bias2: tensor([width], 'f32'),
    prefixTokens: 1,
  }),
});

export const mlpBenches: KernelBench[] = [
  forward(false),
  forward(true),
  {
    kernel: 'mlpBackward',
    direction: 'backward',
    args: ({ tensor, dtype, batch, tokens, width, hidden }) => ({
      gradOut: tensor([batch, tokens, width]),
      slope: tensor([batch, tokens, hidden], dtype === 'f32' ? 'f32' : 'u8'),
      weight1: pack(tensor([hidden, width]), 'packed_transposed'),
      weight2: pack(tensor([width, hidden]), 'packed_transposed'),
    }),
  },
  forwardOfMean(false),
  forwardOfMean(true),
  {
    kernel: 'mlpMeanBackward',
    direction: 'backward',
    args: ({ tensor, dtype, batch, tokens, width, hidden }) => ({
      gradOut: tensor([batch, width]),
      slope: tensor([batch, tokens, hidden], dtype === 'f32' ? 'f32' : 'u8'),
      weight1: pack(tensor([hidden, width]), 'packed_transposed'),
      weight2: pack(tensor([width, hidden]), 'packed_transposed'),
      prefixTokens: 1,
    }),
  },
];
