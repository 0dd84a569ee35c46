import { type BenchShape, type KernelBench, weightDtype } from '../harness';
import { pack } from './linear';

const layers = ({ tensor, dtype, width, hidden }: BenchShape) => ({
  weight1: pack(tensor([hidden, width]), 'packed', weightDtype(dtype)),
  bias1: tensor([hidden], 'f32'),
  weight2: pack(tensor([width, hidden]), 'packed', weightDtype(dtype)),
  bias2: tensor([width], 'f32'),
});

const forward = (
  kernel: 'mlpForward' | 'mlpMeanForward',
  save: boolean,
  own: (shape: BenchShape) => Record<string, unknown>,
): KernelBench => ({
  kernel,
  ...(save ? { label: 'saved for backward' } : { int8: true }),
  direction: 'forward',
  flags: { save },
  args: (shape) => ({
    x: shape.tensor([shape.batch, shape.tokens, shape.width]),
    ...layers(shape),
    ...own(shape),
  }),
});

const backward = (
  kernel: 'mlpBackward' | 'mlpMeanBackward',
  own: (shape: BenchShape) => Record<string, unknown>,
): KernelBench => ({
  kernel,
  direction: 'backward',
  args: (shape) => {
    const { tensor, dtype, batch, tokens, width, hidden } = shape;
    return {
      slope: tensor([batch, tokens, hidden], dtype === 'f32' ? 'f32' : 'u8'),
      weight1: pack(tensor([hidden, width]), 'packed_transposed'),
      weight2: pack(tensor([width, hidden]), 'packed_transposed'),
      ...own(shape),
    };
  },
});

const residual = ({ tensor, batch, tokens, width }: BenchShape) => ({ residual: tensor([batch, tokens, width]) });
const ofPatches = () => ({ prefixTokens: 1 });

export const mlpBenches: KernelBench[] = [
  forward('mlpForward', false, residual),
  forward('mlpForward', true, residual),
  backward('mlpBackward', ({ tensor, batch, tokens, width }) => ({ gradOut: tensor([batch, tokens, width]) })),
  forward('mlpMeanForward', false, ofPatches),
  forward('mlpMeanForward', true, ofPatches),
  backward('mlpMeanBackward', ({ tensor, batch, width }) => ({ gradOut: tensor([batch, width]), prefixTokens: 1 })),
];
