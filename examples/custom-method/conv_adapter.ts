/** Conv-Adapter (Chen et al., arXiv 2208.07463) as a method of one's own: README.md beside this file goes through it line by line. */

import { ops, petl } from 'sidetune';

/** f' = f + α ∘ (W_up GELU(K ∗ (W_down f))) + b on both branches of each block, K a depthwise convolution over the patch grid that CLS passes by. */
export const convAdapter = petl.define(
  'convAdapter',
  { bottleneck: 8, kernelSize: 3 },
  {
    check: (_backbone, { bottleneck, kernelSize }) => {
      petl.checkWhole('convAdapter', 'bottleneck', bottleneck, 1);
      petl.checkWhole('convAdapter', 'kernelSize', kernelSize, 1);
    },

    parameters: ({ config: { dim, depth } }, init, { bottleneck: h, kernelSize: k }) => {
      const adapter = (name: string): [string, petl.ParameterSpec][] => [
        [`${name}.down`, { shape: [h, dim], init: init.uniform(1 / Math.sqrt(dim)) }],
        [`${name}.kernel`, { shape: [h, 1, k, k], init: init.uniform(1 / k) }],
        [`${name}.up`, { shape: [dim, h], init: init.zeros() }],
        [`${name}.alpha`, { shape: [dim], init: init.constant(1), decay: false }],
        [`${name}.bias`, { shape: [dim], init: init.zeros() }],
      ];
      const places = Array.from({ length: depth }, (_, i) => [`conv.${i + 1}.attn`, `conv.${i + 1}.mlp`]).flat();
      return Object.fromEntries(places.flatMap(adapter));
    },

    branch: (i, which, f, _stream, p, { backbone: { grid, prefixTokens } }) => {
      const own = (name: string) => p[`conv.${i}.${which}.${name}`]!;
      const narrow = ops.depthwiseConv(ops.linear(f, own('down')), own('kernel'), { grid, prefixTokens });
      const wide = ops.linear(ops.gelu(narrow), own('up'));
      return ops.add(f, ops.scaleShift(wide, own('alpha'), own('bias')));
    },

    pool: 'cls',
    pure: true,
  },
);
