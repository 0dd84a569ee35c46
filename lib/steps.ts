/** Ops of several kernels go through the images step by step: what lies between the kernels is in memory for one step of them alone. */

import type { Tensor } from './tensor';

// A multiple of 8: whatever the shape of an image, vectors of 8 numbers begin where they would begin without steps.
const imagesOfStep = 8;

/**
 * Calls `body` for steps of all images; `of(tensor)` is a step's part of a tensor [images, ...], of one step the whole of any, and goes with the step.
 * @param steps - how many there are at most, if they need not be small
 */
export function inSteps(
  images: number,
  body: (count: number, of: (tensor: Tensor) => Tensor) => void,
  { steps = Number.POSITIVE_INFINITY } = {},
): void {
  const most = imagesOfStep * Math.max(1, Math.ceil(images / steps / imagesOfStep));
  for (let first = 0; first < images; first += most) {
    const count = Math.min(most, images - first);
    const parts: Tensor[] = [];
    try {
      body(count, (tensor) => {
        parts.push(count === images ? tensor.alias() : tensor.part(first, count));
        return parts.at(-1)!;
      });
    } finally {
      for (const part of parts) part.dispose();
    }
  }
}
