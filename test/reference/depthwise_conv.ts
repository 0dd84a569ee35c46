import { dim, type Reference, reference } from './array';

export function depthwiseConv(
  x: Reference,
  weight: Reference,
  grid: readonly [number, number],
  prefixTokens = 0,
): Reference {
  const [images, tokens, channels] = [dim(x, 0), dim(x, 1), dim(x, 2)];
  const [rows, columns] = grid;
  const side = dim(weight, -1);
  const before = Math.floor((side - 1) / 2);
  const out = reference(x.shape);
  const place = (image: number, token: number, channel: number): number =>
    (image * tokens + token) * channels + channel;
  for (let image = 0; image < images; image++) {
    for (let channel = 0; channel < channels; channel++) {
      for (let token = 0; token < prefixTokens; token++) {
        const at = place(image, token, channel);
        out.data[at] = x.data[at]!;
      }
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          let sum = 0;
          for (let i = 0; i < side; i++) {
            for (let j = 0; j < side; j++) {
              const [y, k] = [row + i - before, column + j - before];
              if (y < 0 || y >= rows || k < 0 || k >= columns) continue;
              sum +=
                weight.data[(channel * side + i) * side + j]! *
                x.data[place(image, prefixTokens + y * columns + k, channel)]!;
            }
          }
          out.data[place(image, prefixTokens + row * columns + column, channel)] = sum;
        }
      }
    }
  }
  return out;
}
