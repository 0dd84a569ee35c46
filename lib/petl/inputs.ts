/** What a pass reads, checked where it can still be named. */

import { ArgumentError, ShapeError } from '../errors';
import { Tensor } from '../tensor';
import type { PassInput } from './passes';

/**
 * Images [B, 3, side, side].
 * @throws ShapeError for images of another size, or none at all
 */
export function imageInput(side: number, images: Tensor | Float32Array): PassInput {
  if (images instanceof Tensor) {
    const [, channels, rows, columns] = images.shape;
    if (images.shape.length !== 4 || channels !== 3 || rows !== side || columns !== side) {
      throw new ShapeError(
        `forward: 'images' has shape [${images.shape.join(', ')}], expected [B, 3, ${side}, ${side}]`,
        { argument: 'images' },
      );
    }
    return { shape: images.shape, fill: (tensor) => tensor.copyFrom(images) };
  }
  const size = 3 * side * side;
  if (images.length === 0 || images.length % size) {
    const expected = `at least one image: a multiple of 3·${side}·${side} = ${size}`;
    throw new ShapeError(`forward: 'images' has ${images.length} numbers, expected ${expected}`, {
      argument: 'images',
      got: String(images.length),
      expected,
    });
  }
  return { shape: [images.length / size, 3, side, side], fill: (tensor) => tensor.write(images) };
}

/**
 * One label for each image. A label that is no class is refused here; on the device it would be found too late.
 * @throws ShapeError, ArgumentError
 */
export function labelInput(classes: number, labels: Int32Array, images: number): PassInput {
  if (labels.length !== images) {
    throw new ShapeError(`step: 'labels' has ${labels.length} numbers, expected one for each image: ${images}`, {
      argument: 'labels',
      got: String(labels.length),
      expected: String(images),
    });
  }
  const index = labels.findIndex((label) => !(label >= 0 && label < classes));
  if (index >= 0) {
    throw new ArgumentError(
      `step: 'labels' has ${labels[index]} at ${index}, expected a class from 0 to ${classes - 1}`,
      { argument: 'labels', got: String(labels[index]) },
    );
  }
  return { shape: [labels.length], dtype: 'i32', fill: (tensor) => tensor.write(labels) };
}
