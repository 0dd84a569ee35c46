import { embedTokens, patchEmbed } from '../../lib/ops';
import { type Case, kernelTest } from '../kernel_test';
import * as reference from '../reference/patch_embed';

// The dtype of the tokens is an option: one case for each.
function patchCases(name: string, images: number[], D: number, P: number): Case[] {
  const C = images[1]!;
  const inputs = { images, weight: { shape: [D, C, P, P], scale: 1 / Math.sqrt(C * P * P) }, bias: [D] };
  return (['f32', 'bf16'] as const).map((dtype) => ({ name, inputs, options: { dtype }, only: dtype, keeps: () => 0 }));
}

const golden = (dtype: 'f32' | 'bf16') => ({
  file: 'patch_embed',
  inputs: { images: 'image', weight: 'weight', bias: 'bias' },
  output: 'tokens',
  options: { dtype },
  only: dtype,
});

kernelTest('patch_embed', {
  goldens: [golden('f32'), golden('bf16')],
  cases: [
    ...patchCases('one patch', [1, 3, 8, 8], 5, 8),
    ...patchCases('patches of one pixel', [2, 1, 3, 5], 4, 1),
    ...patchCases('three images, rows of different length', [3, 3, 6, 9], 17, 3),
    ...patchCases('patches wider than a vector', [1, 1, 34, 17], 7, 17),
    ...patchCases('ViT patches', [1, 3, 32, 32], 33, 16),
    ...patchCases('196 patches, two tiles of tokens', [1, 3, 28, 28], 200, 2),
    ...patchCases('more patches than one step', [3, 1, 106, 106], 3, 2),
  ],
  run: ({ images, weight, bias }, options) => patchEmbed(images!, weight!, bias!, options),
  reference: ({ images, weight, bias }) => reference.patchEmbed(images!, weight!, bias!),
  computeInputs: [],
  differentiable: ['images', 'weight', 'bias'],
  // f32: sums of up to 8400 numbers. bf16: pixels and weight are rounded, and the result; six is what the worst of 39 thousand sums needs.
  tolerance: { f32: { out: 24, grad: 50 }, bf16: { out: 6, grad: 6 } },
  bad: [
    {
      name: 'an image that patches do not fill',
      call: (tensor) => patchEmbed(tensor([1, 3, 8, 9]), tensor([5, 3, 4, 4]), tensor([5])),
      code: 'SIDETUNE_SHAPE',
      argument: 'out',
      message: /9 \/ 4 is not a whole number/,
    },
    {
      name: 'channels that differ',
      call: (tensor) => patchEmbed(tensor([1, 3, 8, 8]), tensor([5, 1, 4, 4]), tensor([5])),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
    },
    {
      name: 'patches that are not square',
      call: (tensor) => patchEmbed(tensor([1, 3, 8, 8]), tensor([5, 3, 4, 2]), tensor([5])),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
    },
    {
      name: 'a weight in rows',
      call: (tensor) => patchEmbed(tensor([1, 3, 8, 8]), tensor([5, 48]), tensor([5])),
      code: 'SIDETUNE_SHAPE',
      argument: 'weight',
    },
    {
      name: 'pixels in bytes',
      call: (tensor) => patchEmbed(tensor([1, 3, 8, 8], 'u8'), tensor([5, 3, 4, 4]), tensor([5])),
      code: 'SIDETUNE_DTYPE',
      argument: 'images',
    },
    {
      name: 'a disposed tensor',
      call: (tensor) => {
        const images = tensor([1, 3, 8, 8]);
        images.dispose();
        return patchEmbed(images, tensor([5, 3, 4, 4]), tensor([5]));
      },
      code: 'SIDETUNE_DISPOSED',
      argument: 'images',
    },
    {
      name: 'something that is no tensor',
      call: (tensor) => patchEmbed(tensor([1, 3, 8, 8]), {} as never, tensor([5])),
      code: 'SIDETUNE_ARGUMENT',
      argument: 'weight',
    },
  ],
});

kernelTest('embed_tokens', {
  cases: [[1, 1, 1], [3, 4, 7], ...[15, 16, 17, 31, 33].map((D) => [2, 3, D]), [2, 196, 24]].map(([B, n, D]) => ({
    name: `${B} x ${n} x ${D}`,
    inputs: { patches: [B!, n!, D!], cls: [1, 1, D!], pos: [1, n! + 1, D!] },
    keeps: () => 0,
  })),
  run: ({ patches, cls, pos }) => embedTokens(patches!, cls!, pos!),
  reference: ({ patches, cls, pos }) => reference.embedTokens(patches!, cls!, pos!),
  computeInputs: ['patches'],
  differentiable: ['patches', 'cls', 'pos'],
  // One rounding forward, one for each of up to three images backward.
  tolerance: { f32: { out: 2, grad: 4 }, bf16: { out: 2, grad: 2 } },
  bad: [
    {
      name: 'positions for another number of tokens',
      call: (tensor) => embedTokens(tensor([2, 4, 8]), tensor([1, 1, 8]), tensor([1, 4, 8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'pos',
      message: /expected \[1, n\+T, D\] = \[1, 5, 8\]/,
    },
    {
      name: 'a class token of two dimensions',
      call: (tensor) => embedTokens(tensor([2, 4, 8]), tensor([1, 8]), tensor([1, 5, 8])),
      code: 'SIDETUNE_SHAPE',
      argument: 'cls',
    },
    {
      name: 'positions in bf16',
      call: (tensor) => embedTokens(tensor([2, 4, 8]), tensor([1, 1, 8]), tensor([1, 5, 8], 'bf16')),
      code: 'SIDETUNE_DTYPE',
      argument: 'pos',
    },
    {
      name: 'patches of integers',
      call: (tensor) => embedTokens(tensor([2, 4, 8], 'i32'), tensor([1, 1, 8]), tensor([1, 5, 8])),
      code: 'SIDETUNE_DTYPE',
      argument: 'patches',
    },
  ],
});

kernelTest('embed_tokens without class token', {
  cases: [{ name: '3 x 4 x 17', inputs: { patches: [3, 4, 17], pos: [1, 4, 17] }, keeps: () => 0 }],
  run: ({ patches, pos }) => embedTokens(patches!, undefined, pos!),
  reference: ({ patches, pos }) => reference.embedTokens(patches!, undefined, pos!),
  computeInputs: ['patches'],
  differentiable: ['patches', 'pos'],
  tolerance: { f32: { out: 2, grad: 4 }, bf16: { out: 2, grad: 2 } },
  bad: [],
});
