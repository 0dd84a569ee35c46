/** Ops of several kernels go through the images step by step: what lies between the kernels is in memory for one step of them alone. */

import type { Tensor } from './tensor';

// A multiple of 8: whatever the shape of an image, vectors of 8 numbers begin where they would begin without steps.
const imagesOfStep = 8;

/** Calls `body` for steps of all images; `of(tensor)` is a step's part of a tensor [images, ...] and goes with the step. */
export function inSteps(images: number, body: (count: number, of: (tensor: Tensor) => Tensor) => void): void {
  for (let first = 0; first < images; first += imagesOfStep) {
    const count = Math.min(imagesOfStep, images - first);
    const parts: Tensor[] = [];
    try {
      body(count, (tensor) => {
        parts.push(tensor.part(first, count));
        return parts.at(-1)!;
      });
    } finally {
      for (const part of parts) part.dispose();
    }
  }
}
