import { dim, type Reference, reference } from './array';

export function patchEmbed(images: Reference, weight: Reference, bias?: Reference): Reference {
  const [B, C, H, W] = images.shape as [number, number, number, number];
  const [D, , P] = weight.shape as [number, number, number];
  const [down, across] = [H / P, W / P];
  const out = reference([B, down * across, D]);
  for (let image = 0; image < B; image++) {
    for (let patch = 0; patch < down * across; patch++) {
      const [top, left] = [Math.floor(patch / across) * P, (patch % across) * P];
      for (let d = 0; d < D; d++) {
        let sum = bias ? bias.data[d]! : 0;
        for (let c = 0; c < C; c++) {
          for (let y = 0; y < P; y++) {
            for (let x = 0; x < P; x++) {
              const pixel = images.data[((image * C + c) * H + top + y) * W + left + x]!;
              sum += pixel * weight.data[((d * C + c) * P + y) * P + x]!;
            }
          }
        }
        out.data[(image * down * across + patch) * D + d] = sum;
      }
    }
  }
  return out;
}

export function embedTokens(patches: Reference, cls: Reference | undefined, pos: Reference): Reference {
  const [B, n, D] = patches.shape as [number, number, number];
  const N = dim(pos, 1);
  return reference([B, N, D], (index) => {
    const [image, token, d] = [Math.floor(index / (N * D)), Math.floor(index / D) % N, index % D];
    const patch = token - (N - n);
    const value = patch < 0 ? cls!.data[d]! : patches.data[(image * n + patch) * D + d]!;
    return value + pos.data[token * D + d]!;
  });
}
