import type { KernelBench } from '../harness';

export const elementwiseBenches: KernelBench[] = [
  {
    kernel: 'addForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      a: tensor([batch, tokens, width]),
      b: tensor([batch, tokens, width]),
    }),
  },
  {
    kernel: 'addInto',
    direction: 'update',
    args: ({ tensor, batch, tokens, width }) => ({
      target: tensor([batch, tokens, width]),
      x: tensor([batch, tokens, width]),
    }),
  },
  {
    kernel: 'scale',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({ x: tensor([batch, tokens, width]), factor: 0.5 }),
  },
  {
    kernel: 'cast',
    label: 'from f32',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      x: tensor([batch, tokens, width], 'f32'),
      out: tensor([batch, tokens, width]),
    }),
  },
  {
    kernel: 'fill',
    direction: 'update',
    args: ({ tensor, batch, tokens, width }) => ({ out: tensor([batch, tokens, width]), value: 1 }),
  },
  {
    kernel: 'residualAddForward',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      x: tensor([batch, tokens, width]),
      branch: tensor([batch, tokens, width]),
      rowScale: tensor([batch], 'f32'),
    }),
  },
  {
    kernel: 'residualAddBackward',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens, width]),
      rowScale: tensor([batch], 'f32'),
    }),
  },
];
