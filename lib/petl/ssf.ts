import * as ops from '../ops';
import { define } from './method';

/**
 * SSF (Lian et al. 2022): a scale and a shift for each channel behind the patch convolution, every LayerNorm and every linear layer. Scales
 * start near 1 and shifts near 0, so the model starts close to the backbone, not at it.
 */
export const ssf = define(
  'ssf',
  {},
  {
    parameters: ({ config: { dim, depth, hidden } }, init) => {
      const widths = { norm1: dim, qkv: 3 * dim, proj: dim, norm2: dim, fc1: hidden, fc2: dim };
      const blocks = Array.from({ length: depth }, (_, i) =>
        Object.entries(widths).map(([name, width]) => [`${i}.${name}`, width] as const),
      ).flat();
      return Object.fromEntries(
        ([['patch_embed', dim], ...blocks, ['norm', dim]] as const).flatMap(([name, width]) => [
          [`ssf.${name}.scale`, { shape: [width], init: init.normal(0.02, { mean: 1 }), decay: false }],
          [`ssf.${name}.shift`, { shape: [width], init: init.normal(0.02), decay: false }],
        ]),
      );
    },

    patches: (x, p) => ops.scaleShift(x, p['ssf.patch_embed.scale']!, p['ssf.patch_embed.shift']!),

    norm: (name, y, p) => ops.scaleShift(y, p[`${place(name)}.scale`]!, p[`${place(name)}.shift`]!),

    linear: (name, _x, y, p) => ops.scaleShift(y, p[`${place(name)}.scale`]!, p[`${place(name)}.shift`]!),

    mergeable: true,
    perToken: true,
    pool: 'cls',
    pure: true,
  },
);

/** 'blocks.0.attn.qkv' → 'ssf.0.qkv', 'norm' → 'ssf.norm'. */
function place(name: string): string {
  return `ssf.${name.replace(/^blocks\./, '').replace(/\.(attn|mlp)\./, '.')}`;
}
