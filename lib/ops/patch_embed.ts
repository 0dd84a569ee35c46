import { record } from '../autograd/tape';
import { kernels } from '../kernels';
import { scope } from '../scope';
import { type DType, Tensor } from '../tensor';

export interface PatchEmbedOptions {
  /** Of the tokens, and of the operands of the product. Default 'f32'. */
  dtype?: 'f32' | 'bf16';
}

/**
 * Cuts images into patches of P × P pixels and maps each to a token: `out[b, p] = weight · patch(b, p) + bias`, a convolution with stride P.
 * @param images - [B, C, H, W], f32; P divides H and W
 * @param weight - [D, C, P, P], f32
 * @param bias - [D], f32
 * @returns [B, H/P · W/P, D], patches in row-major order
 * Keeps for backward: images and weight.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError
 * @see Dosovitskiy et al., arXiv 2010.11929, section 3.1
 */
export function patchEmbed(
  images: Tensor,
  weight: Tensor,
  bias?: Tensor,
  { dtype = 'f32' }: PatchEmbedOptions = {},
): Tensor {
  const inputs = { images, weight, bias };
  const out = scope(() => {
    const tokens = emptyTokens(images, weight, dtype);
    kernels.patchEmbedForward({ ...inputs, out: tokens });
    return tokens!;
  });
  return record('patchEmbed', inputs, out, {
    saved: { images, weight },
    backward: ({ gradOut, saved, wanted, accumulator }) => {
      const { gradImages } = kernels.patchEmbedBackward(
        {
          ...(saved as { images: Tensor; weight: Tensor }),
          gradOut,
          gradWeight: accumulator('weight'),
          gradBias: accumulator('bias'),
        },
        { wanted: { gradImages: wanted.images ?? false }, kind: 'gradients' },
      );
      return { images: gradImages };
    },
  });
}

// Undefined where the shapes make no sense: then the kernel says what is wrong with them.
function emptyTokens(images: Tensor, weight: Tensor, dtype: DType): Tensor | undefined {
  const usable = [images, weight].every(
    (tensor) => tensor instanceof Tensor && !tensor.disposed && tensor.shape.length === 4,
  );
  if (!usable) return undefined;
  const [batch, , height, width] = images.shape as [number, number, number, number];
  const [dim, , side] = weight.shape as [number, number, number];
  const patches = Math.floor(height / side) * Math.floor(width / side);
  return Tensor.empty(images.device, [batch, patches, dim], { dtype });
}

/**
 * Puts the class token before the patches and adds positions: `out[b] = [cls; patches[b]] + pos`; without class token `patches[b] + pos`.
 * @param patches - [B, n, D], f32 or bf16
 * @param cls - [1, 1, D], f32
 * @param pos - [1, n + 1, D], f32; [1, n, D] without class token
 * @returns [B, n + 1, D] or [B, n, D], dtype of patches
 * Keeps for backward: nothing.
 * @throws ShapeError, DtypeError, DisposedError, DeviceError
 */
export function embedTokens(patches: Tensor, cls: Tensor | undefined, pos: Tensor): Tensor {
  const inputs = { patches, cls, pos };
  const prefixTokens = cls ? 1 : 0;
  const { out } = kernels.embedTokensForward({ ...inputs, prefixTokens });
  const count = patches.shape[1]!;
  return record('embedTokens', inputs, out, {
    backward: ({ gradOut, wanted, accumulator }) => {
      const { gradPatches } = kernels.embedTokensBackward(
        { gradOut, patches: count, prefixTokens, gradCls: accumulator('cls'), gradPos: accumulator('pos') },
        { wanted: { gradPatches: wanted.patches ?? false }, kind: 'gradients' },
      );
      return { patches: gradPatches };
    },
  });
}
